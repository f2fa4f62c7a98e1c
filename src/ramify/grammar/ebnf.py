"""EBNF as xgrammar and llama.cpp write it: `root ::= "a" [b-c]* (word | "d"){2,3}`, comments after `#`.

    rule     name ::= either
    either   sequence | sequence ...
    sequence item item ...
    item     ("text" | [class] | . | name | ( either )) followed by nothing, * + ? {n} {n,} {n,m}

A rule that refers to no recursive rule is regular and is folded into the terminals of those that use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ramify.grammar.constraint import MAX_DEPTH, MAX_REPEATS, MAX_RULES, MAX_SOURCE, GrammarError
from ramify.grammar.lark import Lark, Piece

TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
      | (?P<define>::=)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<text>"(?:[^"\\\n]|\\.)*")
      | (?P<set>\[(?:[^\]\\\n]|\\.)*\])
      | (?P<counts>\{\s*\d{1,9}\s*(?:,\s*\d{0,9}\s*)?\})
      | (?P<lookahead>\(=)
      | (?P<sign>[()|*+?.])""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
PLAIN = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
ROOT = "root"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A text, or a class of characters in Rust's syntax."""

    text: str
    is_set: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Many:
    item: Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Row:
    items: list[Node]


@dataclass(frozen=True, slots=True)
class Either:
    items: list[Node]


Node = Leaf | Ref | Many | Row | Either


def translate(source: str, lark: Lark, param: str = "ebnf") -> Piece:
    """The grammar's root as a piece of `lark`; raises `GrammarError` that names what is wrong."""
    return _Writer(_Parser(source, param).rules(), lark, param).root()


# -- reading ---------------------------------------------------------------------------------------------------------


class _Parser:
    def __init__(self, source: str, param: str) -> None:
        self._param = param
        if len(source) > MAX_SOURCE:
            raise GrammarError(f"{param} is longer than {MAX_SOURCE} characters", param=param)
        if "\0" in source:
            raise GrammarError(f"{param} holds a NUL character", param=param, construct="NUL")
        self._tokens = list(self._scan(source))
        self._at = 0
        self._depth = 0

    def _scan(self, source: str) -> list[tuple[str, str, int]]:
        tokens, at, line = [], 0, 1
        while at < len(source):
            found = TOKEN.match(source, at)
            if found is None or found.lastgroup == "lookahead":
                raise self._error("this means nothing here", source[at : at + 2], line)
            if found.lastgroup != "space":
                tokens.append((str(found.lastgroup), found.group(), line))
            line += found.group().count("\n")
            at = found.end()
        return tokens

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        while self._at < len(self._tokens):
            name, line = self._take("name"), self._line
            self._take("define")
            if name in rules:
                raise self._error(f"the rule {name!r} is defined twice", name, line)
            if len(rules) >= MAX_RULES:
                raise self._error(f"more than {MAX_RULES} rules", name, line)
            rules[name] = self._either()
        return rules

    def _either(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} nested groups", "(", self._line)
        rows = [self._row()]
        while self._peek() == "|":
            self._at += 1
            rows.append(self._row())
        self._depth -= 1
        return rows[0] if len(rows) == 1 else Either(rows)

    def _row(self) -> Node:
        items: list[Node] = []
        while (item := self._item()) is not None:
            items.append(self._repeated(item))
        return items[0] if len(items) == 1 else Row(items)

    def _item(self) -> Node | None:
        kind, text = self._kind, self._peek()
        if kind == "text":
            made: Node = Leaf(self._unescape(text[1:-1]))
        elif kind == "set":
            made = Leaf(self._set(text), is_set=True)
        elif text == ".":
            made = Leaf("(?s:.)", is_set=True)
        elif kind == "name" and not self._starts_rule:
            made = Ref(text)
        elif text == "(":
            self._at += 1
            made = self._either()
            if self._peek() != ")":
                raise self._error("a group is not closed", "(", self._line)
        else:
            return None
        self._at += 1
        return made

    def _repeated(self, item: Node) -> Node:
        sign = self._peek()
        if sign not in ("*", "+", "?") and self._kind != "counts":
            return item
        self._at += 1
        if self._kind == "counts" or self._peek() in ("*", "+", "?"):
            raise self._error("a repetition of a repetition", self._peek(), self._line)
        if sign in ("*", "+", "?"):
            return Many(item, int(sign == "+"), 1 if sign == "?" else None)
        return self._counted(item, sign)

    def _counted(self, item: Node, sign: str) -> Node:
        low, comma, high = "".join(sign[1:-1].split()).partition(",")
        many = Many(item, int(low), int(low) if not comma else int(high) if high else None)
        if many.high is not None and many.high < many.low:
            raise self._error("the bounds of a repetition are swapped", sign, self._line)
        if max(many.low, many.high or 0) > MAX_REPEATS:
            raise self._error(f"more than {MAX_REPEATS} repetitions", sign, self._line)
        return many

    def _unescape(self, body: str) -> str:
        def character(found: re.Match[str]) -> str:
            code = found.group(1) or found.group(2) or found.group(3)
            if code is None:
                return PLAIN.get(found.group(4), found.group(4))
            if int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) < 0xE000:
                raise self._error("no character has this number", found.group(), self._line)
            return chr(int(code, 16))

        return ESCAPE.sub(character, body)

    def _set(self, text: str) -> str:
        """A bracket expression in Rust's syntax: every member that is no letter or digit is escaped."""
        negated = text.startswith("[^")
        out = []
        for part in re.finditer(r"\\(?:x..|u.{4}|U.{8}|.)|.", text[1 + negated : -1], re.DOTALL):
            plain = part.group()
            if plain == "-":
                out.append("-")
                continue
            c = self._unescape(plain)
            out.append(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c[0]):x}}}")
        if not out:
            raise self._error("an empty class", text, self._line)
        return f"[{'^' if negated else ''}{''.join(out)}]"

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def _line(self) -> int:
        return self._tokens[min(self._at, len(self._tokens) - 1)][2] if self._tokens else 1

    @property
    def _starts_rule(self) -> bool:
        return self._at + 1 < len(self._tokens) and self._tokens[self._at + 1][0] == "define"

    def _take(self, kind: str) -> str:
        if self._kind != kind:
            wanted = {"name": "the name of a rule", "define": "::="}[kind]
            raise self._error(f"{wanted} is expected, not {self._peek()!r}", self._peek(), self._line)
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _error(self, what: str, construct: str, line: int) -> GrammarError:
        message = f"{self._param}: {what} ({construct} in line {line})"
        return GrammarError(message, param=self._param, construct=construct)


# -- writing ---------------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, rules: dict[str, Node], lark: Lark, param: str) -> None:
        self._rules = rules
        self._lark = lark
        self._param = param
        self._uses = {name: _refs(body) for name, body in rules.items()}
        self._check_names()
        self._named: dict[str, Piece] = {}

    def _check_names(self) -> None:
        if ROOT not in self._rules:
            raise self._error(f"there is no rule {ROOT!r}", ROOT)
        for name, uses in self._uses.items():
            for used in sorted(uses - self._rules.keys()):
                raise self._error(f"{name!r} uses the rule {used!r}, which is not defined", used)

    def root(self) -> Piece:
        for name in self._regular_rules():
            self._named[name] = self._lark.rule(self._body(name))
        recursive = [name for name in self._rules if name not in self._named]
        self._named |= {name: self._lark.name(regular=False) for name in recursive}
        for name in recursive:
            self._lark.define(self._named[name], self._body(name))
        return self._named[ROOT]

    def _regular_rules(self) -> list[str]:
        """Rules that reach no recursion, each after those it uses (Kahn 1962)."""
        users: dict[str, list[str]] = {name: [] for name in self._rules}
        for name, uses in self._uses.items():
            for used in uses:
                users[used].append(name)
        missing = {name: len(uses) for name, uses in self._uses.items()}
        found = [name for name, count in missing.items() if count == 0]
        for name in found:
            for user in users[name]:
                missing[user] -= 1
                if missing[user] == 0:
                    found.append(user)
        return found

    def _body(self, name: str) -> Piece:
        body = self._piece(self._rules[name])
        if body.weight > MAX_REPEATS:
            raise self._error(f"the rule {name!r} stands for more than {MAX_REPEATS} symbols", name)
        return body

    def _piece(self, node: Node) -> Piece:
        match node:
            case Leaf(text, is_set):
                return self._lark.regex(text) if is_set else self._lark.literal(text)
            case Ref(used):
                return self._named[used]
            case Many(item, low, high):
                return self._lark.repeat(self._piece(item), low, high)
            case Row(items):
                return self._lark.sequence([self._piece(item) for item in items])
            case Either(items):
                return self._lark.either([self._piece(item) for item in items])

    def _error(self, what: str, construct: str) -> GrammarError:
        return GrammarError(f"{self._param}: {what}", param=self._param, construct=construct)


def _refs(node: Node) -> set[str]:
    found, stack = set(), [node]
    while stack:
        match stack.pop():
            case Ref(name):
                found.add(name)
            case Many(item):
                stack.append(item)
            case Row(items) | Either(items):
                stack += items
    return found
