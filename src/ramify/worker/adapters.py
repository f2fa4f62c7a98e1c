"""The seam for adapters: what the worker asks of whoever computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ramify.wire.plan import Moved


class Adapters(Protocol):
    """Adapters in slots, over the linears of a model. Used by the thread that runs the steps."""

    def move(self, moved: Sequence[Moved]) -> None:
        """These stand in these slots from now on."""

    def compute(self, runs_N3: Tensor | None) -> None:
        """Which rows of what is computed next have an adapter, as `Kernels.lora` takes it; None: none of them."""


class NoAdapters:
    def move(self, moved: Sequence[Moved]) -> None:
        assert not moved, "there are no adapters"

    def compute(self, runs_N3: Tensor | None) -> None: ...
