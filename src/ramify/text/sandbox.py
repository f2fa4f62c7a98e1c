"""The sandbox that chat templates run in: jinja2's immutable one, with limits that a template cannot step around.

Time: the clock is looked at before every round of a loop, every call, filter and attribute. Between two looks nothing
runs but one operation, whose size is bounded.

Size: whatever can make much of little (operators, string methods, filters that write text) is measured before it runs,
and filters and globals that cannot be measured are not there. A value that holds the same list many times is small in
memory and without end as text, so what is not text is weighed as if it were before it is written, compared or put into
another.

Only lists that a template makes itself can be changed, by `append` and `pop`: they are remembered by identity. What it
was given stays as it is.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

MAX_TEXT = 16 << 20  # characters of one value
MAX_ITEMS = 1 << 20  # of one list, nested ones included
MAX_MADE = 1 << 30  # characters of all values that operators and methods make in one rendering
MAX_BITS = 1 << 16  # of a number
CONTAINERS = list | tuple | dict | set | frozenset | ItemsView | KeysView | ValuesView
GONE = ("batch", "slice", "wordwrap", "urlize", "pprint")
WHOLE = (  # filters that write what they are given as text, or compare all that is in it
    *("string", "safe", "escape", "e", "forceescape", "upper", "lower", "trim", "capitalize", "title", "truncate"),
    *("center", "replace", "indent", "format", "join", "wordcount", "striptags", "xmlattr"),
    *("sort", "dictsort", "unique", "groupby", "min", "max"),
)
COMPARING = (
    "eq",
    "==",
    "equalto",
    "ne",
    "!=",
    "lt",
    "<",
    "lessthan",
    "le",
    "<=",
    "gt",
    ">",
    "greaterthan",
    "ge",
    ">=",
    "in",
)
WIDE = re.compile(r"\d{4,}|\*|:[^{}]*\{")  # in a format: a width of four digits, or one that is given from outside


class TemplateTimeout(Exception):
    """A template ran too long; not a user error until it is known whose template it is."""


class Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; in serving its body is rendered as it stands."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Writer(CodeGenerator):
    """Compiles loops, comparisons, `a ~ b` and literals of lists, tuples and dicts to calls that are looked at."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.iter = self._through("watched", node.iter)
        super().visit_For(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        node.expr = self._through("shown", node.expr)
        for operand in node.ops:
            operand.expr = self._through("shown", operand.expr)
        super().visit_Compare(node, frame)

    def _through(self, method: str, node: nodes.Node) -> nodes.Call:
        called = nodes.EnvironmentAttribute(method, lineno=node.lineno)
        call = nodes.Call(called, [node], [], None, None, lineno=node.lineno)
        call.set_environment(self.environment)
        return call

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_text((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, list | tuple | dict):
            self._built(super().visit_Const, node, frame, "made_of_constants")
        else:
            super().visit_Const(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._built(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._built(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._built(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _built(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame, how: str = "made") -> None:
        self.write(f"environment.{how}(")
        visit(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """One rendering at a time: `begin` it."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])
    code_generator_class = _Writer

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, Generation],
            keep_trailing_newline=False,
            finalize=self.shown,
        )
        self.begin(float("inf"))
        self.filters["tojson"] = self._tojson
        self.filters = {name: self._guarded(name, f) for name, f in self.filters.items() if name not in GONE}
        self.tests = {name: self._comparing(f) if name in COMPARING else f for name, f in self.tests.items()}
        self.globals = {
            "namespace": Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "dict": lambda *args, **more: self.made(dict(*args, **more)),
            "range": self._range,
            "raise_exception": _raise,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }

    def begin(self, deadline: float) -> None:
        """A new rendering, to end before `deadline` on the monotonic clock."""
        self.deadline = deadline
        self._made = 0
        self._own: dict[int, list[Any]] = {}  # lists that the template made, kept alive so that ids stay theirs

    # -- time --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateTimeout

    def watched(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.look()
            yield value

    def _range(self, *args: int) -> Iterator[int]:
        if len(range(*args)) > 100_000:
            raise SecurityError("range too big")
        return self.watched(range(*args))

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.look()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.look()
        return super().getitem(obj, argument)

    # -- what may be changed -----------------------------------------------------------------------------------------

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr in ("append", "pop") and self._own.get(id(obj)) is obj:
            return True
        return super().is_safe_attribute(obj, attr, value)

    def made(self, value: Any) -> Any:
        """A list, tuple or dict that the template has just made."""
        self.look()
        self.weigh(value)
        if isinstance(value, list):
            self._own[id(value)] = value
        return value

    def made_of_constants(self, value: Any) -> Any:
        """The same, with all that is in it."""
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, list | tuple | dict):
                self.made_of_constants(part)
        return self.made(value)

    # -- sizes -------------------------------------------------------------------------------------------------------

    def weigh(self, value: Any, indent: int = 0) -> int:
        """About how many characters a value is as text; raises `SecurityError` where that is too many."""
        text = items = 0
        stack = [(value, 1)]
        while stack:
            item, depth = stack.pop()
            items += 1
            text += 4 + depth * indent
            if isinstance(item, str):
                text += len(item)
            elif isinstance(item, dict):
                stack += [(part, depth + 1) for pair in item.items() for part in pair]
            elif isinstance(item, CONTAINERS):
                stack += [(part, depth + 1) for part in item]
            elif isinstance(item, int):
                text += item.bit_length() // 3
            elif isinstance(item, Namespace):
                stack += [(part, depth + 1) for part in item._Namespace__attrs.values()]
            if text > MAX_TEXT or items > MAX_ITEMS or len(stack) > MAX_ITEMS:
                raise SecurityError("a value that is too big")
        return text

    def allow(self, size: int, most: int = MAX_TEXT) -> None:
        """Something of this size is about to be made."""
        self._made += size
        if size > most or self._made > MAX_MADE:
            raise SecurityError("a value that is too big")

    def shown(self, value: Any) -> Any:
        """What is written out."""
        if isinstance(value, CONTAINERS | Namespace):
            self.weigh(value)
        return value

    def join_text(self, parts: tuple[Any, ...]) -> str:
        self.look()
        texts = [str(self.shown(part)) for part in parts]
        self.allow(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.look()
        if operator == "+":
            self._allow_result(left, _length(left) + _length(right))
        elif operator == "%" and isinstance(left, str):
            self._allow_format(left, "%", right)
        elif operator == "**" and abs(right) * max(abs(left), 2).bit_length() > 4096:
            raise SecurityError("a power that is too big")
        elif operator == "*":
            self._allow_product(left, right)
        return super().call_binop(context, operator, left, right)

    def _allow_result(self, like: Any, size: int) -> None:
        self.allow(size, MAX_ITEMS if isinstance(like, list | tuple) else MAX_TEXT)

    def _allow_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_BITS:
                raise SecurityError("a number that is too big")
        elif isinstance(left, int):
            self._allow_product(right, left)
        elif isinstance(right, int):
            self._allow_result(left, _length(left) * max(right, 0))
            if not isinstance(left, str):
                self.allow(self.weigh(left) * max(right, 0))

    def _allow_format(self, text: str, sign: str, *values: Any) -> None:
        if WIDE.search(text):
            raise SecurityError("a format that is too wide")
        self.allow(len(text) + text.count(sign) * sum(self.weigh(value) + 1000 for value in values))

    # -- calls and filters -------------------------------------------------------------------------------------------

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.look()
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, int) and argument > MAX_TEXT:
                raise SecurityError("a number that is too big")
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(owner, str):
            self._allow_method(owner, name, args, kwargs)
        elif isinstance(owner, list) and name == "append":
            self.weigh(args)
        return super().call(context, called, *args, **kwargs)

    def _allow_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """String methods whose result can be much longer than the text."""
        if name in ("translate", "expandtabs", "format_map"):
            raise SecurityError(f"{name} is not in chat templates")
        if name == "replace" and len(args) >= 2:
            self._allow_replace(text, *args[:2])
        elif name == "join" and args:
            self.allow(self.weigh(args[0]) + len(text) * _length(args[0]))
        elif name in ("split", "rsplit", "splitlines"):
            known = bool(args and args[0] and isinstance(args[0], str))
            self.allow(text.count(args[0]) if known else len(text) // 4, MAX_ITEMS)

    def _allow_replace(self, text: str, old: Any, new: Any) -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.allow(len(text) + text.count(old) * len(new))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def measured(*args: Any, **kwargs: Any) -> str:
            self._allow_format(value.__self__, "{", *args, *kwargs.values())
            return wrapped(*args, **kwargs)

        return measured

    def _guarded(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is looked at; what jinja2 passes first (its context, itself) stays in front."""
        passed = getattr(run, "jinja_pass_arg", None) is not None

        @functools.wraps(run)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._allow_filter(name, args[passed], [*args[passed + 1 :], *kwargs.values()])
            return run(*args, **kwargs)

        return guarded

    def _comparing(self, run: Any) -> Callable[..., Any]:
        return lambda *args: run(*map(self.shown, args))

    def _allow_filter(self, name: str, value: Any, rest: list[Any]) -> None:
        self.look()
        if name in WHOLE:
            self.shown(value)
        if name == "sum" and any(isinstance(argument, CONTAINERS) for argument in rest):
            raise SecurityError("a sum of lists")
        for argument in rest:
            if isinstance(argument, int) and argument > MAX_ITEMS:
                raise SecurityError("a number that is too big")
        size, widest = _length(value), max((r for r in rest if isinstance(r, int)), default=4)
        if name in ("list", "sort", "unique", "reverse", "groupby", "map", "select", "reject"):
            self.allow(size, MAX_TEXT if name == "reverse" else MAX_ITEMS)
        elif name == "center":
            self.allow(size + widest)
        elif name == "indent" and isinstance(value, str):
            self.allow(size + (value.count("\n") + 1) * max([widest, *(len(r) for r in rest if isinstance(r, str))]))
        elif name == "replace" and isinstance(value, str) and len(rest) >= 2:
            self._allow_replace(value, *rest[:2])
        elif name == "join":
            self.allow(size * max([1, *(len(r) for r in rest if isinstance(r, str))]))
        elif name == "format" and isinstance(value, str):
            self._allow_format(value, "%", *rest)

    def _tojson(self, value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        """As transformers has it: JSON for prompts, not for HTML, so nothing is escaped."""
        if isinstance(indent, str) or (indent is not None and indent > 64):
            raise SecurityError("an indent that is too wide")
        self.allow(self.weigh(value, indent or 0))
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _length(value: Any) -> int:
    """What a value weighs in the size of a result: a text or list its length, a number nothing to worry about."""
    return len(value) if isinstance(value, str | CONTAINERS) else 1


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
