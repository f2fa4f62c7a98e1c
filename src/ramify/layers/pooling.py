"""From the hidden states of a text, as they come in pieces, to one vector. Sums are of fp64, and in the order of the
positions: so the bits do not depend on the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ramify.config.head import Head, PoolingMode


class Pooling(Protocol):
    """Of one text."""

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        """The states of the next positions, which count for the vector, and their tokens."""

    def result(self) -> Tensor:
        """[1, D] in fp32; of steps [steps, D]."""


class First:
    """The state of the first token, which BERT calls CLS."""

    def __init__(self) -> None:
        self._state: Tensor | None = None

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        if self._state is None:
            self._state = states_PD[:1].float().clone()  # the next step writes where these stand

    def result(self) -> Tensor:
        assert self._state is not None
        return self._state


class Last:
    """The state of the last token, which in a causal model has seen all."""

    def __init__(self) -> None:
        self._state: Tensor | None = None

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        self._state = states_PD[-1:].float().clone()

    def result(self) -> Tensor:
        assert self._state is not None
        return self._state


class Mean:
    """The sum divided by `count ** power`; `weighted` by how far a position is from the beginning."""

    def __init__(self, power: float = 1.0, weighted: bool = False) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._weights = 0.0
        self._power, self._weighted = power, weighted

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        states = states_PD.double()
        count = len(states)
        if self._weighted:
            first, last = self._count + 1, self._count + count
            weights_P = torch.arange(first, last + 1, dtype=torch.float64, device=states.device)
            states = states * weights_P[:, None]
            self._weights += (first + last) * count / 2
        if self._sum is not None:
            states = torch.cat((self._sum[None], states))
        self._sum = states.cumsum(0)[-1]  # one by one, in order
        self._count += count

    def result(self) -> Tensor:
        assert self._sum is not None
        divisor = self._weights if self._weighted else float(self._count) ** self._power
        return (self._sum / divisor).float()[None]


class Max:
    """The largest of each element."""

    def __init__(self) -> None:
        self._most: Tensor | None = None

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        most = states_PD.float().amax(0)
        self._most = most if self._most is None else torch.maximum(self._most, most)

    def result(self) -> Tensor:
        assert self._most is not None
        return self._most[None]


class Steps:
    """The states of every token that ends a step."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._states: list[Tensor] = []

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        ends = [states_PD[at : at + 1] for at, token in enumerate(tokens) if token == self._step]
        self._states.append(torch.cat([states_PD[:0], *ends]).float())  # there may be none

    def result(self) -> Tensor:
        return torch.cat(self._states)


class Several:
    """One behind the other."""

    def __init__(self, parts: list[Pooling]) -> None:
        self._parts = parts

    def add(self, states_PD: Tensor, tokens: Sequence[int]) -> None:
        for part in self._parts:
            part.add(states_PD, tokens)

    def result(self) -> Tensor:
        return torch.cat([part.result() for part in self._parts], dim=1)


def make_pooling(head: Head) -> Pooling:
    """For one text."""
    parts = [_make(mode, head) for mode in head.pooling]
    return parts[0] if len(parts) == 1 else Several(parts)


def _make(mode: PoolingMode, head: Head) -> Pooling:
    if mode == "steps":
        assert head.step is not None
        return Steps(head.step)
    if mode == "mean_sqrt_len":
        return Mean(power=0.5)
    if mode == "weighted_mean":
        return Mean(weighted=True)
    made: dict[str, Callable[[], Pooling]] = {"cls": First, "last": Last, "mean": Mean, "max": Max}
    return made[mode]()
