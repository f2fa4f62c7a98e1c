"""Which reasoning format a model has, by its chat template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from ramify.text.reasoning.format import ReasoningFormat
from ramify.text.reasoning.registry import REASONING_FORMATS


class Signed(Protocol):
    @property
    def signs(self) -> tuple[tuple[str, ...], ...]: ...


F = TypeVar("F", bound=Signed)


def most_specific(formats: Iterable[F], source: str) -> F | None:
    """The format of whose signs the most is found: a set of signs counts if all of it is there."""
    best, most = None, 0
    for candidate in formats:
        found = max((sum(map(len, texts)) for texts in candidate.signs if all(t in source for t in texts)), default=0)
        if found > most:
            best, most = candidate, found
    return best


def detect_reasoning(template: str) -> ReasoningFormat | None:
    """From the source of a chat template; None if it knows nothing of reasoning."""
    return most_specific((REASONING_FORMATS[name] for name in REASONING_FORMATS), template)
