"""One choice on its way: everything the engine has said of it, as text and as tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from ramify.core.finish import Finish
from ramify.text.stream import TextStream
from ramify.wire.messages import Reply, Submit, Times
from ramify.wire.result import HiddenStates, TokenLogprobs


class News(msgspec.Struct, gc=False):
    """What came in at once: new text, and how many tokens there are now."""

    generation: Generation
    text: str
    said: int  # characters of text there are now
    tokens: int
    finish: Finish | None


@dataclass(slots=True, eq=False)
class Generation:
    """Written by the thread that receives, in `apply`; lists only grow, so others may read what they were told of.

    `stream` is None where the caller wants no text. `deliver` takes the news.
    """

    submit: Submit
    stream: TextStream | None
    deliver: Callable[[News], None]
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    cached: int = 0
    preempted: int = 0
    prompt_logprobs: TokenLogprobs | None = None
    output_logprobs: TokenLogprobs | None = None
    hidden: list[HiddenStates] = field(default_factory=list)
    pooled: bytes | None = None
    times: Times | None = None
    sent_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None

    @property
    def text(self) -> str:
        return self.stream.text if self.stream is not None else ""

    @property
    def prompt_tokens(self) -> int:
        return len(self.submit.tokens)

    @property
    def latency(self) -> float:
        """Seconds from arrival to the end, or to now."""
        return (self.finished_at or time.monotonic()) - self.submit.arrived

    def apply(self, reply: Reply) -> News:
        """Take in a reply. Text may end the generation earlier than the engine did: what follows is cut off."""
        finish, text = reply.finish, ""
        before = len(self.ids)
        self.ids += reply.tokens
        self._add_logprobs(reply)
        if reply.hidden is not None:
            self._add_hidden(reply.hidden)
        self.cached, self.preempted = reply.cached, reply.preempted
        if self.stream is not None:
            text = self.stream.feed(reply.tokens, finish)
            finish = self.stream.finish
            self._cut(before + len(reply.tokens))
        if self.first_token_at is None and self.ids:
            self.first_token_at = time.monotonic()
        if finish is not None:
            self.finish, self.finished_at, self.times = finish, time.monotonic(), reply.times
            self.pooled = reply.pooled
        return News(self, text, self._said, len(self.ids), finish)

    def fail(self, finish: Finish) -> News:
        """It ended without the engine having said so."""
        self.finish, self.finished_at = finish, time.monotonic()
        return News(self, "", self._said, len(self.ids), finish)

    @property
    def _said(self) -> int:
        return self.stream.said if self.stream is not None else 0

    def _cut(self, received: int) -> None:
        assert self.stream is not None
        over = received - self.stream.tokens
        if over <= 0:
            return
        del self.ids[-over:]
        if self.output_logprobs is not None:
            for values in (
                self.output_logprobs.values,
                self.output_logprobs.top_values,
                self.output_logprobs.top_ids,
                self.output_logprobs.id_values,
            ):
                del values[len(self.ids) :]

    def _add_hidden(self, new: HiddenStates) -> None:
        """Where the last is wanted it is among the newest: what a text stop takes back came with them."""
        if self.submit.hidden is not None and self.submit.hidden.last:
            self.hidden.clear()
        self.hidden.append(new)

    def _add_logprobs(self, reply: Reply) -> None:
        if reply.prompt_logprobs is not None:
            self.prompt_logprobs = _joined(self.prompt_logprobs, reply.prompt_logprobs)
        if reply.output_logprobs is not None:
            self.output_logprobs = _joined(self.output_logprobs, reply.output_logprobs)


def _joined(known: TokenLogprobs | None, new: TokenLogprobs) -> TokenLogprobs:
    if known is None:
        return new
    known.values += new.values
    known.top_values += new.top_values
    known.top_ids += new.top_ids
    known.id_values += new.id_values
    return known
