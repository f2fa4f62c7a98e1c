"""How the model speaks: its notations for tool calls and for reasoning, how its answers are read by them, and what
they are held to.

    tools, tool_choice ──┐
    response_format ─────┼─→ Reading ─→ parser of the answer
    prompt ──────────────┘          └─→ constraint, as a note for the engine
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ramify.config.resolve import Resolved
from ramify.grammar import calls
from ramify.grammar.constraint import Constraint
from ramify.text.reasoning.format import ReasoningFormat
from ramify.text.tokenizer import Tokenizer
from ramify.text.tools.choose import choose_formats
from ramify.text.tools.json_formats import PLAIN_JSON
from ramify.text.tools.parser import ANY_TOOL, Formats, Parser
from ramify.text.tools.signatures import Signatures


@dataclass(frozen=True)
class Function:
    """A tool of a request; `strict` holds its arguments to `parameters`, a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True)
class Tools:
    """What may be called, or with `required` has to be; no more than one call unless `parallel`."""

    functions: Sequence[Function]
    required: bool = False
    parallel: bool = True

    @property
    def strict(self) -> bool:
        return any(function.strict for function in self.functions)

    def callables(self, all_held: bool) -> list[calls.Callable]:
        """With the schemas that hold: of strict functions, or where `all_held` of all, none of them being strict."""
        held = all_held and not self.strict
        return [calls.Callable(f.name, f.parameters if f.strict or held else None) for f in self.functions]


@dataclass(frozen=True)
class Reading:
    """Of the answers to one request. `marks` are the special tokens that have to stay in the text. The model is inside
    a block of reasoning from the first token on if `opened`, and `may_think` before it answers.
    """

    formats: Formats
    marks: frozenset[int] = frozenset()
    signatures: Signatures = ANY_TOOL
    opened: bool = False
    may_think: bool = False
    separate: bool = True
    stream_reasoning: bool = True

    @property
    def is_plain(self) -> bool:
        """The answer is its text: there is nothing to be read out of it."""
        return not (self.formats.tools.shapes or self.formats.reasoning.begin)

    def parser(self) -> Parser:
        """For one answer."""
        return Parser(
            self.formats,
            self.signatures,
            opened=self.opened,
            separate=self.separate,
            stream_reasoning=self.stream_reasoning,
        )


@dataclass
class Shaped:
    """What an answer is held to, and what of the request could not be done."""

    constraint: Constraint | None = None
    warnings: list[str] = field(default_factory=list)


class Speech:
    """Of one model; shared by all requests."""

    def __init__(self, formats: Formats, tokenizer: Tokenizer | None) -> None:
        forced = formats if calls.can_hold(formats.tools) else Formats(PLAIN_JSON, formats.reasoning)
        self.formats = formats
        self._forced = forced
        self._marks = {one: _marks(one, tokenizer) for one in (formats, formats.without_tools, forced)}

    def reading(self, prompt: str, tools: Tools | None, *, partial: str | None, **options: bool) -> Reading:
        """For answers to a rendered prompt. `partial` is the beginning of the answer where the model continues one;
        `options` are `separate` and `stream_reasoning`.
        """
        formats = self._for(tools)
        reasoning = formats.reasoning
        opened = reasoning.open_after(prompt) if partial is None else reasoning.inside(partial)
        closed = bool(partial) or any(prompt.rstrip().endswith(end) for end in reasoning.end)
        return Reading(
            formats=formats,
            marks=self._marks[formats],
            signatures=ANY_TOOL if tools is None else _signatures(tools),
            opened=opened and bool(reasoning.begin),
            may_think=bool(reasoning.begin) and not closed,
            **options,
        )

    def _for(self, tools: Tools | None) -> Formats:
        if tools is None:
            return self.formats.without_tools
        return self._forced if tools.required else self.formats


def speech_of(resolved: Resolved, tokenizer: Tokenizer | None) -> Speech:
    """By --tool-call-parser and --reasoning-parser, or by the chat template."""
    server = resolved.settings.server
    if tokenizer is None:
        return Speech(Formats(), None)
    formats = choose_formats(
        server.tool_call_parser, server.reasoning_parser, tokenizer.chat_template, tokenizer.control
    )
    return Speech(formats, tokenizer)


def _marks(formats: Formats, tokenizer: Tokenizer | None) -> frozenset[int]:
    if tokenizer is None:
        return frozenset()
    return frozenset(index for text, index in tokenizer.specials.items() if formats.needs(text))


def _signatures(tools: Tools) -> Signatures:
    return Signatures([{"name": f.name, "parameters": f.parameters} for f in tools.functions])


# -- what an answer is held to -----------------------------------------------------------------------------------------


def shape(reading: Reading, tools: Tools | None, content: Constraint | None) -> Shaped:
    """What the answer has to be, if anything: calls of `tools`, text as `content` has it, or either."""
    if tools is None:
        return Shaped(_thinking_aside(reading, content))
    if tools.required:
        return Shaped(_required(reading, tools))
    if content is None and tools.parallel and not tools.strict:
        return Shaped()
    if not calls.can_trigger(reading.formats.tools):
        return Shaped(_thinking_aside(reading, content), [_unenforced(reading, tools, content)])
    return Shaped(_optional(reading, tools, content))


def _unenforced(reading: Reading, tools: Tools, content: Constraint | None) -> str:
    name = reading.formats.tools.name
    if content is not None:
        return f"response_format leaves no room for tool calls in the format '{name}'"
    lost = "strict" if tools.strict else "parallel_tool_calls"
    return (
        f"{lost} is not enforced: tool calls in the format '{name}' begin like text (tool_choice required enforces it)"
    )


def _required(reading: Reading, tools: Tools) -> Constraint:
    """Arguments are held to their schemas as far as these can be enforced; to all of it where the tool is strict."""
    rows = calls.only_calls(reading.formats.tools, tools.callables(all_held=True), parallel=tools.parallel)
    return _after_thinking(reading, rows, tools.strict)


def _optional(reading: Reading, tools: Tools, content: Constraint | None) -> Constraint:
    functions, own = tools.callables(all_held=False), reading.formats.tools
    if content is None:
        text = calls.text_with_calls(own, functions, parallel=tools.parallel)
        return calls.constraint(text, strict=True, after=reading.formats.reasoning.end[0] if reading.opened else "")
    rows = calls.only_calls(own, functions, parallel=tools.parallel)
    answer = calls.as_format(content)
    if answer is None:
        return content
    return _after_thinking(reading, calls.either(rows, _headed(reading.formats.reasoning, answer)), content.strict)


def _thinking_aside(reading: Reading, content: Constraint | None) -> Constraint | None:
    if content is None or content.after or not (reading.opened or reading.may_think):
        return content
    reasoning = reading.formats.reasoning
    if reading.opened:
        return msgspec.structs.replace(content, after=reasoning.end[0])
    answer = calls.as_format(content)
    return content if answer is None else _after_thinking(reading, _headed(reasoning, answer), content.strict)


def _headed(reasoning: ReasoningFormat, answer: calls.Format) -> calls.Format:
    return calls.headed(answer, reasoning) if reasoning.head else answer


def _after_thinking(reading: Reading, format: calls.Format, strict: bool) -> Constraint:
    reasoning = reading.formats.reasoning
    if reading.opened:
        return calls.constraint(format, strict=strict, after=reasoning.end[0])
    return calls.constraint(calls.with_thinking(format, reasoning) if reading.may_think else format, strict=strict)
