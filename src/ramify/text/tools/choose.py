"""How a model writes tool calls and reasoning: as it was told, or as its chat template shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ramify.core.errors import StartupError
from ramify.core.registry import Registry
from ramify.text.reasoning.detect import detect_reasoning
from ramify.text.reasoning.format import ReasoningFormat
from ramify.text.reasoning.registry import REASONING_FORMATS
from ramify.text.tools.detect import detect_tools
from ramify.text.tools.format import ToolFormat
from ramify.text.tools.parser import NO_REASONING, NO_TOOLS, Formats
from ramify.text.tools.registry import TOOL_FORMATS

AUTO, NONE = "auto", "none"
F = TypeVar("F")


def choose_formats(tools: str, reasoning: str, template: str | None, specials: Iterable[str] = ()) -> Formats:
    """`tools` and `reasoning` are names of formats, `auto` for what the chat template shows, `none` for neither.

    Raises `StartupError` for a name that is not known.
    """
    return Formats(_tools(tools, template or "", specials), _reasoning(reasoning, template or ""))


def _tools(name: str, template: str, specials: Iterable[str]) -> ToolFormat:
    if name == AUTO:
        return detect_tools(template, specials) or NO_TOOLS
    return NO_TOOLS if name == NONE else _named(TOOL_FORMATS, name, "--tool-call-parser")


def _reasoning(name: str, template: str) -> ReasoningFormat:
    if name == AUTO:
        return detect_reasoning(template) or NO_REASONING
    return NO_REASONING if name == NONE else _named(REASONING_FORMATS, name, "--reasoning-parser")


def _named(registry: Registry[F], name: str, flag: str) -> F:
    if name not in registry:
        raise StartupError(
            f"{flag} {name}: there is no such format", f"Known are {AUTO}, {NONE}, {', '.join(registry)}."
        )
    return registry[name]
