"""Chat templates: jinja2 in an immutable sandbox, with what Hugging Face templates expect and limits on time and size.

A template comes with the model, so it is somebody else's program. It can read the messages and write text; it cannot
reach attributes of Python objects, call anything dangerous, change what it is given, run long or write without end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import jinja2

from ramify.core.errors import BadRequest, StartupError
from ramify.text.sandbox import MAX_TEXT, Sandbox, TemplateTimeout

SECONDS = 2.0
REMEDY = "Correct it, or give another with --chat-template FILE."


class ChatTemplate:
    """One template, compiled once; raises `StartupError` if it cannot be. One thread at a time renders."""

    def __init__(self, source: str, names: dict[str, str]) -> None:
        self.source = source
        self._names = names
        self._environment = Sandbox()
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
        self._environment.begin(time.monotonic() + SECONDS)
        pieces, size = [], 0
        for piece in self._template.generate(given):
            self._environment.look()
            size += len(piece)
            if size > MAX_TEXT:
                raise TemplateTimeout
            pieces.append(piece)
        return "".join(pieces)
