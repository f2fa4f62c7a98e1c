"""`tools`, `tool_choice` and `parallel_tool_calls` of a request: what may be called, and what has to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from ramify.core.convert import convert
from ramify.core.errors import BadRequest
from ramify.engine.speech import Function, Tools
from ramify.server.openai.conversation import Tool, read_tools


class Named(msgspec.Struct, kw_only=True):
    name: str


class AllowedTool(msgspec.Struct, kw_only=True):
    function: Named
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct, kw_only=True):
    tools: list[AllowedTool]
    mode: Literal["auto", "required"] = "auto"


class ToolChoice(msgspec.Struct, kw_only=True):
    """One function that has to be called, or a choice of those that may be."""

    type: Literal["function", "allowed_tools"] = "function"
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


CHOICE = Literal["none", "auto", "required"] | ToolChoice


class Asked(Protocol):
    tools: list[dict[str, Any]] | None
    tool_choice: str | dict[str, Any] | None
    parallel_tool_calls: bool | None


def tools_of(asked: Asked) -> Tools | None:
    """None where nothing may be called. Raises `BadRequest` that names the field."""
    tools = read_tools(asked.tools)
    parallel = asked.parallel_tool_calls is not False
    choice = asked.tool_choice
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise BadRequest(
                f"tool_choice should be none, auto, required or a function, not {choice[:64]!r}", param="tool_choice"
            )
        if choice == "required" and not tools:
            raise _needs_tools()
        return _tools(tools, choice == "required", parallel) if choice != "none" else None
    if choice is None:
        return _tools(tools, False, parallel)
    if not tools:
        raise _needs_tools()
    return _chosen(convert(choice, ToolChoice, "tool_choice"), tools, parallel)


def _chosen(choice: ToolChoice, tools: Sequence[Tool], parallel: bool) -> Tools | None:
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            raise BadRequest("tool_choice.allowed_tools is missing", param="tool_choice")
        names = [tool.function.name for tool in choice.allowed_tools.tools]
        return _tools(_among(tools, names), choice.allowed_tools.mode == "required", parallel)
    if choice.function is None:
        raise BadRequest("tool_choice.function is missing", param="tool_choice")
    return _tools(_among(tools, [choice.function.name]), True, False)


def _among(tools: Sequence[Tool], names: Sequence[str]) -> list[Tool]:
    known = {tool.function.name: tool for tool in tools}
    for name in names:
        if name not in known:
            raise BadRequest(f"tool_choice: there is no tool {name[:64]!r} among the tools", param="tool_choice")
    if not names:
        raise BadRequest("tool_choice allows no tool", param="tool_choice")
    return [known[name] for name in names]


def _tools(tools: Sequence[Tool], required: bool, parallel: bool) -> Tools | None:
    if not tools:
        return None
    return Tools([_function(tool) for tool in tools], required, parallel)


def _function(tool: Tool) -> Function:
    parameters = tool.function.parameters
    return Function(
        tool.function.name, parameters if isinstance(parameters, dict) else None, tool.function.strict is True
    )


def _needs_tools() -> BadRequest:
    return BadRequest("tool_choice asks for a call, and there are no tools", param="tool_choice")
