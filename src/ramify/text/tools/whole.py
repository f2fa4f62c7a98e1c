"""A finished answer, parsed at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ramify.text.tools.events import CallArguments, CallEnd, CallStart, Event, Reasoning, Text
from ramify.text.tools.parser import Parser


@dataclass(slots=True)
class ToolCall:
    """`arguments` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Block:
    """A stretch of reasoning or of text."""

    type: Literal["reasoning", "text"]
    text: str


@dataclass(slots=True)
class Message:
    """An answer taken apart. `blocks` has reasoning and content in the order in which they came."""

    calls: list[ToolCall] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    @property
    def content(self) -> str:
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        return self._joined("reasoning")

    def _joined(self, kind: str) -> str:
        return "".join(block.text for block in self.blocks if block.type == kind)

    def add(self, kind: Literal["reasoning", "text"], text: str) -> None:
        if self.blocks and self.blocks[-1].type == kind:
            self.blocks[-1].text += text
        elif text:
            self.blocks.append(Block(kind, text))


def parse(text: str, parser: Parser, cut: bool = False) -> Message:
    """All of an answer, by a parser that has been fed nothing.

    Unlike a stream, which has said it by then, a call that the model did not write to its end comes back as text. With
    `cut`, the answer having ended for its length, the call that the end fell into is kept as far as it goes.
    """
    return assemble(text, [*parser.feed(text), *parser.finish()], cut)


def assemble(text: str, events: Iterable[Event], cut: bool = False) -> Message:
    """As `parse`, from the events of a parser that was fed `text` in whatever pieces."""
    message = Message()
    start = 0
    for event in events:
        match event:
            case Text(said):
                message.add("text", said)
            case Reasoning(thought):
                message.add("reasoning", thought)
            case CallStart(id=identity, name=name):
                message.calls.append(ToolCall(identity, name, ""))
                start = event.start
            case CallArguments(json=json):
                message.calls[-1].arguments += json
            case CallEnd(complete=False, end=end) if not (cut and end == len(text)):
                message.calls.pop()
                message.add("text", text[start:end])
    return message
