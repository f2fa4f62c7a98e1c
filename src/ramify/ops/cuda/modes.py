"""Two sets of linears: cuBLAS's, and those in which a row's bits are its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class TwoModes(threading.local):
    """What this thread computes with."""

    invariant = False

    def use(self, invariant: bool) -> None:
        self.invariant = invariant


def either(modes: TwoModes, invariant: Linear, usual: Linear) -> Linear:
    def linear(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
        return (invariant if modes.invariant else usual)(x_TD, weight_ED, bias_E)

    return linear
