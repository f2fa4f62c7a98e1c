"""What an answer is made of, in OpenAI's terms: content, reasoning and tool calls, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ramify.engine.generation import Generation, News
from ramify.engine.speech import Reading
from ramify.server.openai.answers import CalledFunction, Delta, Message, ToolCall, ToolCallDelta
from ramify.text.tokenizer import Tokenizer
from ramify.text.tools.events import CallArguments, CallEnd, CallStart, Event, Text
from ramify.text.tools.events import Reasoning as Thought
from ramify.text.tools.whole import assemble


@dataclass
class Whole:
    """A finished answer."""

    message: Message
    reasoning_tokens: int = 0


def read_whole(reading: Reading, generation: Generation, tokenizer: Tokenizer | None) -> Whole:
    """The answer of one choice."""
    text = generation.text
    if reading.is_plain:
        return Whole(Message(content=text))
    parser = reading.parser()
    events: list[Event] = []
    for piece, tokens in _pieces(reading, generation, tokenizer):
        events += parser.feed(piece, tokens)
    events += parser.finish()
    cut = generation.finish is not None and generation.finish.type == "length"
    found = assemble(text, events, cut)
    calls = [ToolCall(id=c.id, function=CalledFunction(name=c.name, arguments=c.arguments)) for c in found.calls]
    message = Message(
        content=found.content or (None if calls else ""),
        reasoning_content=found.reasoning or None,
        tool_calls=calls or None,
    )
    return Whole(message, parser.reasoning_tokens)


def _pieces(reading: Reading, generation: Generation, tokenizer: Tokenizer | None) -> Iterator[tuple[str, int]]:
    """The text and its tokens: token by token where reasoning has to be counted."""
    text, left = generation.text, len(generation.text)
    if reading.formats.reasoning.begin and tokenizer is not None:
        submit = generation.submit
        detokenizer = tokenizer.detokenizer(submit.params.skip_special_tokens, submit.tokens, reading.marks)
        for token in generation.ids:
            piece = detokenizer.step(token)[:left]
            left -= len(piece)
            yield piece, 1
    yield text[len(text) - left :], 0


class Told:
    """What a stream has told of one choice."""

    def __init__(self, reading: Reading) -> None:
        self._parser = None if reading.is_plain else reading.parser()
        self.tokens = 0  # that were read

    @property
    def calls(self) -> int:
        return 0 if self._parser is None else self._parser.calls

    @property
    def reasoning_tokens(self) -> int:
        return 0 if self._parser is None else self._parser.reasoning_tokens

    def deltas(self, news: News) -> list[Delta]:
        """What is new in the answer. Where calls may come, text can be held back."""
        tokens, self.tokens = news.tokens - self.tokens, news.tokens
        if self._parser is None:
            return [Delta(content=news.text)] if news.text else []
        events = self._parser.feed(news.text, tokens)
        if news.finish is not None:
            events += self._parser.finish()
        return [delta for event in events if (delta := _delta(event)) is not None]


def _delta(event: Event) -> Delta | None:
    match event:
        case Text(text):
            return Delta(content=text)
        case Thought(text):
            return Delta(reasoning_content=text)
        case CallStart(index, identity, name):
            function = CalledFunction(name=name, arguments="")
            return Delta(tool_calls=[ToolCallDelta(index=index, id=identity, type="function", function=function)])
        case CallArguments(index, json):
            return Delta(tool_calls=[ToolCallDelta(index=index, function=CalledFunction(arguments=json))])
        case CallEnd():
            return None
