"""Chat templates: jinja2 in an immutable sandbox, with what Hugging Face templates expect and limits on time and size.

A template comes with the model, so it is somebody else's program. It can read the messages and write text; it cannot
reach attributes of Python objects, call anything dangerous, change what it is given, run long or write without end.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ramify.core.errors import BadRequest, StartupError

SECONDS = 2.0
REMEDY = "Correct it, or give another with --chat-template FILE."
MAX_OUTPUT = 16 << 20  # characters


class TemplateTimeout(Exception):
    """A template ran too long; not a user error until it is known whose template it is."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; in serving its body is rendered as it stands."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Writer(CodeGenerator):
    """Compiles `a ~ b` to a call that is looked at, like all other operators that can make something big."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_text((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Looks at the clock when the template calls, loops over a range or reads an attribute, and at sizes when it
    multiplies, joins or formats.
    """

    deadline = float("inf")
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    code_generator_class = _Writer

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._look()
        if operator == "**" and abs(right) * max(abs(left), 2).bit_length() > 4096:
            raise jinja2.exceptions.SecurityError("a power that is too big")
        if operator == "*":
            self._allow(_size(left) * (right if isinstance(right, int) else _size(right)))
        if operator == "%" and isinstance(left, str) and re.search(r"\d{4,}", left):
            raise jinja2.exceptions.SecurityError("a format that is too wide")
        if operator == "+":
            self._allow(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def join_text(self, parts: tuple[Any, ...]) -> str:
        self._look()
        texts = [str(part) for part in parts]
        self._allow(sum(map(len, texts)))
        return "".join(texts)

    def _allow(self, size: Any) -> None:
        if isinstance(size, int) and size > MAX_OUTPUT:
            raise jinja2.exceptions.SecurityError("a value that is too big")

    def _look(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateTimeout

    def call(self, *args: Any, **kwargs: Any) -> Any:
        self._look()
        for argument in args[2:]:
            self._allow(argument)
        return super().call(*args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._look()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._look()
        return super().getitem(obj, argument)


def _size(value: Any) -> int:
    """What an operand weighs in the size of a result: a text its length, a number nothing to worry about."""
    return len(value) if isinstance(value, str | list | tuple) else 1


class ChatTemplate:
    """One template, compiled once; raises `StartupError` if it cannot be. One thread at a time renders."""

    def __init__(self, source: str, names: dict[str, str]) -> None:
        self.source = source
        self._names = names
        self._environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], keep_trailing_newline=False
        )
        self._environment.filters["tojson"] = _tojson
        self._environment.globals["raise_exception"] = _raise
        self._environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._environment.globals["range"] = self._range
        self._lock = threading.Lock()  # the deadline stands on the environment
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as e:
            raise StartupError(f"the chat template cannot be parsed: {e.message} (line {e.lineno})", REMEDY) from None
        except (SyntaxError, RecursionError, OverflowError, MemoryError, ValueError) as e:
            raise StartupError(f"the chat template cannot be compiled: {e}", REMEDY) from None

    def render(
        self,
        /,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **more: Any,
    ) -> str:
        """The prompt of a conversation; raises `BadRequest` with the template's own words where it refuses one."""
        given = {**self._names, "documents": None, **more, "messages": messages, "tools": tools}
        try:
            with self._lock:
                return self._generate({**given, "add_generation_prompt": add_generation_prompt})
        except TemplateTimeout:
            raise BadRequest(f"the chat template did not finish within {SECONDS:g} s", param="messages") from None
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as e:
            raise BadRequest(f"the chat template refuses these messages: {e}", param="messages") from None

    def _generate(self, given: dict[str, Any]) -> str:
        self._environment.deadline = time.monotonic() + SECONDS
        pieces, size = [], 0
        for piece in self._template.generate(given):
            size += len(piece)
            if size > MAX_OUTPUT or time.monotonic() > self._environment.deadline:
                raise TemplateTimeout
            pieces.append(piece)
        return "".join(pieces)

    def _range(self, *args: int) -> Iterator[int]:
        """`range` that looks at the clock: an empty loop calls nothing else."""
        if len(range(*args)) > 100_000:
            raise jinja2.exceptions.SecurityError("range too big")
        for value in range(*args):
            self._environment._look()
            yield value


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """As transformers has it: JSON for prompts, not for HTML, so nothing is escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
