"""Goodput: requests per second that were fast enough in every way that was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ramify.core.errors import StartupError

NAMES = {"ttft": "ttft", "tpot": "tpot", "e2el": "e2el", "e2e": "e2el"}


class Slo(msgspec.Struct, frozen=True):
    """Service level objective: upper limits in seconds; inf where there is none."""

    ttft: float = math.inf
    tpot: float = math.inf
    e2el: float = math.inf

    @classmethod
    def parse(cls, limits: Sequence[str]) -> Slo | None:
        """From `name:milliseconds`, one or more in a text; None where nothing was asked for."""
        if not limits:
            return None
        return cls(**dict(_limit(limit) for text in limits for limit in text.replace(",", " ").split() or [text]))

    def met(self, ttft: float, tpot: float | None, e2el: float) -> bool:
        """Whether a request with these times in seconds kept to all limits; a single token has no `tpot` to miss."""
        return ttft <= self.ttft and (tpot is None or tpot <= self.tpot) and e2el <= self.e2el

    def __str__(self) -> str:
        limits = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return ", ".join(f"{name} <= {1000 * value:g} ms" for name, value in limits if math.isfinite(value))


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition(":")
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if name not in NAMES or not milliseconds > 0:
        raise StartupError(f"--goodput {text!r} is not a limit", "Like `ttft:500 tpot:50 e2el:5000`, in milliseconds.")
    return NAMES[name], milliseconds / 1000
