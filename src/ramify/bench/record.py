"""One request as the client saw it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ramify.bench import stats

Counted = Literal["server", "tokenizer", "chunks"]


class Record(msgspec.Struct, kw_only=True):
    """Times are in seconds; `sent` and `due` count from the start of the run.

    `first` and `last` are the moments of the first content and of the end of the answer, measured from `sent`. `stamps`
    are the arrivals of all chunks with content, likewise. `error` is None exactly if the answer is there and whole;
    then `first`, `last` and `output_tokens` are set.
    """

    index: int
    user: int
    turn: int
    due: float
    sent: float
    ended: float
    asked_input: int | None
    asked_output: int
    first: float | None = None
    last: float | None = None
    stamps: list[float] = msgspec.field(default_factory=list)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    counted: Counted = "server"
    text: str = ""
    finish: str | None = None
    status: int | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def ttft(self) -> float:
        assert self.first is not None
        return self.first

    @property
    def latency(self) -> float:
        assert self.last is not None
        return self.last

    @property
    def tokens(self) -> int:
        assert self.output_tokens is not None
        return self.output_tokens

    @property
    def tpot(self) -> float | None:
        return stats.tpot(self.latency, self.ttft, self.tokens)

    @property
    def gaps(self) -> list[float]:
        return stats.gaps(self.stamps)

    @property
    def ended_early(self) -> bool:
        """The model stopped before the length that was asked for."""
        return self.ok and self.tokens < self.asked_output

    def shown(self, details: bool) -> dict[str, Any]:
        """For JSON; times in ms, `sent_s` in seconds. `details`: with every gap."""
        found: dict[str, Any] = {
            "index": self.index,
            "user": self.user,
            "turn": self.turn,
            "sent_s": self.sent,
            "ok": self.ok,
            "error": self.error,
            "status": self.status,
            "finish_reason": self.finish,
            "ttft_ms": _ms(self.first),
            "tpot_ms": _ms(self.tpot) if self.ok else None,
            "e2e_ms": _ms(self.last),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "asked_prompt_tokens": self.asked_input,
            "asked_output_tokens": self.asked_output,
            "chunks": len(self.stamps),
            "counted_by": self.counted,
        }
        return found | {"itl_ms": [_ms(gap) for gap in self.gaps]} if details else found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 4)
