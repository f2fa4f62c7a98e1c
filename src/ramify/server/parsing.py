"""`/parse_function_call` and `/separate_reasoning`: the parsing of answers for whoever has their text already."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ramify.core.errors import BadRequest
from ramify.core.registry import Registry
from ramify.server.openai.conversation import TOOLS, read_tools
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes
from ramify.text.reasoning.registry import REASONING_FORMATS
from ramify.text.tools.parser import Formats, Parser
from ramify.text.tools.registry import TOOL_FORMATS
from ramify.text.tools.signatures import Signatures
from ramify.text.tools.whole import Message, parse

MAX_TEXT = 4 << 20  # characters


class ParseCalls(msgspec.Struct, kw_only=True):
    """The body of `/parse_function_call`. Without `tool_call_parser` the text is read as the served model writes."""

    text: str
    tools: list[dict[str, Any]]
    tool_call_parser: str | None = None


class SeparateReasoning(msgspec.Struct, kw_only=True):
    """The body of `/separate_reasoning`; `return_blocks` gives every block by itself, in order."""

    text: str
    reasoning_parser: str | None = None
    return_blocks: bool = False


class FoundCall(msgspec.Struct, kw_only=True):
    """`tool_index` is the place of the tool among the tools, `parameters` JSON as text."""

    tool_index: int
    name: str
    parameters: str


class Calls(msgspec.Struct, kw_only=True):
    normal_text: str
    calls: list[FoundCall]


class FoundBlock(msgspec.Struct, kw_only=True):
    type: str
    text: str


class Separated(msgspec.Struct, kw_only=True):
    reasoning_text: str
    text: str
    reasoning_blocks: list[str] | UnsetType = UNSET
    text_blocks: list[str] | UnsetType = UNSET
    blocks: list[FoundBlock] | UnsetType = UNSET


CALLS = Takes(ParseCalls, parts={"tools": TOOLS})
REASONING = Takes(SeparateReasoning)


async def parse_function_call(request: Request, state: State, asked: ParseCalls) -> Response:
    """The tool calls in a text, and what is left of it."""
    tools = read_tools(asked.tools)
    names = [tool.function.name for tool in tools]
    own = state.speech.formats.tools
    format = _named(TOOL_FORMATS, asked.tool_call_parser, "tool_call_parser") if asked.tool_call_parser else own
    if not format.shapes:
        raise BadRequest(
            "the served model has no format of tool calls: give tool_call_parser", param="tool_call_parser"
        )
    parser = Parser(Formats(format), Signatures(asked.tools))
    message = await _parsed(state, asked.text, parser)
    calls = [FoundCall(tool_index=names.index(c.name), name=c.name, parameters=c.arguments) for c in message.calls]
    return as_json(Calls(normal_text=message.content, calls=calls))


async def separate_reasoning(request: Request, state: State, asked: SeparateReasoning) -> Response:
    """What of a text is reasoning, and what is not."""
    own = state.speech.formats.reasoning
    format = _named(REASONING_FORMATS, asked.reasoning_parser, "reasoning_parser") if asked.reasoning_parser else own
    if not format.begin:
        raise BadRequest("the served model has no format of reasoning: give reasoning_parser", param="reasoning_parser")
    message = await _parsed(state, asked.text, Parser(Formats(reasoning=format), opened=format.always))
    separated = Separated(reasoning_text=message.reasoning, text=message.content)
    if asked.return_blocks:
        separated.blocks = [FoundBlock(type=block.type, text=block.text) for block in message.blocks]
        separated.reasoning_blocks = [block.text for block in message.blocks if block.type == "reasoning"]
        separated.text_blocks = [block.text for block in message.blocks if block.type == "text"]
    return as_json(separated)


def _named(registry: Registry[Any], name: str, field: str) -> Any:
    if name not in registry:
        raise BadRequest(f"{field} {name[:64]!r}: known are {', '.join(registry)}", param=field)
    return registry[name]


async def _parsed(state: State, text: str, parser: Parser) -> Message:
    if len(text) > MAX_TEXT:
        raise BadRequest(f"the text is longer than {MAX_TEXT} characters", param="text")
    return await state.off_loop(parse, text, parser)
