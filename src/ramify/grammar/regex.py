r"""Regexes of requests, as the grammar library takes them.

What comes in is the common ground of Python's, JavaScript's and RE2's syntax and matches the whole output. What goes
out is Rust syntax between the slashes of a Lark terminal. `\d`, `\w` and `\s` are ASCII, as in JSON Schema. What no
finite automaton can do (lookaround, back references) is refused by name, and so is what would need too many states.
"""

from __future__ import annotations

import re

from ramify.grammar.constraint import MAX_DEPTH, MAX_REGEX, MAX_REPEATS, GrammarError

CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
COUNTED = re.compile(r"\{(\d+)(,(\d*))?\}")
HEX = re.compile(r"x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[xu]\{[0-9A-Fa-f]{1,6}\}")
PROPERTY = re.compile(r"[pP](?:[A-Za-z]|\{[^{}]{1,64}\})")
FLAGS = re.compile(r"\?[ims]*(?:-[ims]+)?[:)]")
NAMED = re.compile(r"\?P?<[A-Za-z_][A-Za-z0-9_]*>")
GROUPS = {
    "?=": "lookahead",
    "?!": "lookahead",
    "?<=": "lookbehind",
    "?<!": "lookbehind",
    "?>": "an atomic group",
    "?P=": "a back reference",
    "?(": "a conditional group",
}
ANCHORS = {"b": "a word boundary", "B": "a word boundary", "A": "an anchor", "z": "an anchor", "Z": "an anchor"}


def translate(pattern: str, param: str = "regex") -> tuple[str, int]:
    """The pattern in Rust's syntax, fit to stand between slashes, and how many symbols it stands for."""
    if len(pattern) > MAX_REGEX:
        raise GrammarError(f"{param} is longer than {MAX_REGEX} characters", param=param)
    if "\0" in pattern:
        raise GrammarError(f"{param} holds a NUL character", param=param, construct="NUL")
    return _Scanner(pattern, param).run()


def printable(character: str) -> str:
    """A character as it may stand in a Lark regex."""
    if character == "/":
        return r"\/"
    return character if character.isprintable() else f"\\x{{{ord(character):x}}}"


class _Scanner:
    """One pass. `_costs` holds, per open group, the symbols its sequence stands for; `_last` those of its last atom."""

    def __init__(self, pattern: str, param: str) -> None:
        self._text = pattern
        self._param = param
        self._at = 0
        self._out: list[str] = []
        self._costs = [0]
        self._starts = [True]  # per open group: does it begin where the pattern begins
        self._last = 0
        self._begun = False  # something stands before in this alternative
        self._tail = len(pattern.rstrip(")"))  # from here on nothing but closing brackets

    def run(self) -> tuple[str, int]:
        while self._at < len(self._text):
            self._step(self._text[self._at])
        if len(self._costs) > 1:
            raise self._error("an unclosed group", "(")
        return "".join(self._out), self._costs[0]

    def _step(self, c: str) -> None:
        handler = {"\\": self._escape, "[": self._set, "(": self._open, ")": self._close, "|": self._or}.get(c)
        if handler is not None:
            handler()
        elif c in "^$":
            self._anchor(c)
        elif c in "*+?" or (c == "{" and COUNTED.match(self._text, self._at)):
            self._quantifier(c)
        else:
            self._atom("\\" + c if c in "{}]" else printable(c), 1)

    def _atom(self, out: str, length: int) -> None:
        self._out.append(out)
        self._at += length
        self._costs[-1] += 1
        self._last = 1
        self._begun = True

    def _escape(self) -> None:
        rest = self._text[self._at + 1 :]
        if not rest:
            raise self._error("a backslash at the end", "\\")
        c = rest[0]
        if c in "123456789" or c == "k":
            raise self._error("a back reference", f"\\{c}")
        if c in ANCHORS:
            raise self._error(ANCHORS[c], f"\\{c}")
        self._atom(*self._escaped(rest, inside=False))

    def _escaped(self, rest: str, inside: bool) -> tuple[str, int]:
        """An escape, given what follows its backslash: in Rust's syntax, and its length."""
        c = rest[0]
        if c.lower() in CLASSES:
            body = CLASSES[c.lower()]
            return (body if inside and c.islower() else f"[{'^' if c.isupper() else ''}{body}]"), 2
        for pattern in (HEX, PROPERTY):
            found = pattern.match(rest)
            if found:
                return "\\" + found.group(), 1 + found.end()
        if c in "nrtfv":
            return "\\" + c, 2
        if c == "0":
            return r"\x00", 2
        if c.isalnum():
            raise self._error("an unknown escape", f"\\{c}")
        return ("\\" + c if c.isascii() and c.isprintable() and c not in " <>" else printable(c)), 2  # \< is no escape

    def _set(self) -> None:
        """A bracket expression. A `[` in it is itself, and the set operators of Rust are characters."""
        begin, text = self._at, self._text
        out, at = ["["], begin + 1
        if text[at : at + 1] == "^":
            out.append("^")
            at += 1
        first = at
        while at < len(text) and (text[at] != "]" or at == first):
            if text[at] == "\\":
                if text[at + 1 : at + 2] in ("b", ""):
                    raise self._error("a backspace escape", "\\b")
                piece, length = self._escaped(text[at + 1 :], inside=True)
            else:
                piece, length = ("\\" + text[at] if text[at] in "[]&~" else printable(text[at])), 1
                if text[at] == "-" and text[at + 1 : at + 2] == "-":
                    piece = r"\-"
            out.append(piece)
            at += length
        if at >= len(text):
            raise self._error("an unclosed bracket", "[")
        self._atom("".join(out) + "]", at + 1 - begin)

    def _open(self) -> None:
        rest = self._text[self._at + 1 : self._at + 80]
        for begin, name in GROUPS.items():
            if rest.startswith(begin):
                raise self._error(name, f"({begin}")
        head = NAMED.match(rest) or FLAGS.match(rest)
        if head is None and rest.startswith("?"):
            raise self._error("an unknown group", f"({rest[:3]}")
        self._at += 1 + (head.end() if head else 0)
        if head and head.group().endswith(")"):
            self._out.append(f"({head.group()}")
            return
        self._out.append(f"({head.group()}" if head and head.group().endswith(":") else "(?:")
        if len(self._costs) > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} nested groups", "(")
        self._costs.append(0)
        self._last = 0
        self._starts.append(not self._begun)

    def _close(self) -> None:
        if len(self._costs) == 1:
            raise self._error("an unopened group", ")")
        self._out.append(")")
        self._at += 1
        self._last = max(self._costs.pop(), 1)
        self._costs[-1] += self._last
        self._starts.pop()
        self._begun = True

    def _or(self) -> None:
        self._out.append("|")
        self._at += 1
        self._last = 0
        self._begun = not self._starts[-1]

    def _anchor(self, c: str) -> None:
        """At the ends anchors say what is so anyway; anywhere else nothing could match."""
        after = self._text[self._at + 1 : self._at + 2]
        at_end = self._at + 1 >= self._tail or (after == "|" and len(self._costs) == 1)
        if self._begun if c == "^" else not at_end:
            raise self._error("an anchor in the middle", c)
        self._at += 1

    def _quantifier(self, c: str) -> None:
        counted = COUNTED.match(self._text, self._at)
        if self._last == 0:
            raise self._error("a repetition of nothing", counted.group() if counted else c)
        low, high = _counts(counted) if counted else {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        if high is not None and high < low:
            raise self._error("a repetition whose bounds are swapped", counted.group() if counted else c)
        times = max(low + 1 if high is None else high, 1)
        self._costs[-1] += self._last * (times - 1)
        self._last *= times
        if max(self._costs[-1], self._last) > MAX_REPEATS:
            raise self._error(f"a repetition of more than {MAX_REPEATS} symbols", counted.group() if counted else c)
        self._out.append(counted.group() if counted else c)
        self._at += len(self._out[-1])
        self._skip_modifier()

    def _skip_modifier(self) -> None:
        """A lazy quantifier matches the same texts as a greedy one; a possessive one does not."""
        modifier = self._text[self._at : self._at + 1]
        if modifier == "?":
            self._at += 1
        elif modifier == "+":
            raise self._error("a possessive quantifier", "+")

    def _error(self, what: str, construct: str) -> GrammarError:
        return GrammarError(
            f"{self._param}: {what} ({construct!r} at character {self._at}) is not supported",
            param=self._param,
            construct=construct,
        )


def _counts(found: re.Match[str]) -> tuple[int, int | None]:
    low = min(int(found.group(1)[:9]), MAX_REPEATS + 1)
    if found.group(2) is None:
        return low, low
    return low, min(int(found.group(3)[:9]), MAX_REPEATS + 1) if found.group(3) else None
