"""The seam for adapters: what the worker asks of whoever computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ramify.ops.lora import Runs
from ramify.wire.plan import Moved


class Adapters(Protocol):
    """Adapters in slots, over the linears of a model. Used by the thread that runs the steps, and `compute` by that
    which captures them too.
    """

    def move(self, moved: Sequence[Moved]) -> None:
        """These stand in these slots from now on."""

    def compute(self, runs: Runs | None) -> None:
        """Which rows of what this thread computes next have an adapter; None: none of them."""

    @property
    def can_record(self) -> bool:
        """Whether what is computed next depends on the number of rows alone, and not on whose they are."""

    def widths(self, adapters: Sequence[int]) -> list[int] | None:
        """How many tokens the adapters in these slots have, and the model, for -1: so many logits of a row count. None:
        all have as many as the model.
        """


class NoAdapters:
    def move(self, moved: Sequence[Moved]) -> None:
        assert not moved, "there are no adapters"

    def compute(self, runs: Runs | None) -> None: ...

    @property
    def can_record(self) -> bool:
        return True

    def widths(self, adapters: Sequence[int]) -> list[int] | None:
        return None
