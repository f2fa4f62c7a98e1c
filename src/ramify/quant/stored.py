"""Weights of a linear as a checkpoint's format gives them: in few bits as they are, or dequantized block by block.

Shapes: E outputs, D inputs, G groups of inputs that share a scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 1 << 20  # numbers that are in float32 at a time


class Stored(Protocol):
    """A quantized weight [E, D]."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, first: int, last: int) -> Tensor:
        """Some of its rows as float32."""


@dataclass(frozen=True)
class Floats:
    """A weight in a form that no kernel computes in: `dequantize(first, last)` gives rows of it."""

    shape: tuple[int, int]
    dequantize: Callable[[int, int], Tensor]

    def rows(self, first: int, last: int) -> Tensor:
        return self.dequantize(first, last)


@dataclass(frozen=True)
class Int8:
    """whole * scale, a scale per output."""

    whole_ED: Tensor  # int8
    scale_E: Tensor  # float32

    @property
    def shape(self) -> tuple[int, int]:
        return self.whole_ED.shape[0], self.whole_ED.shape[1]

    def rows(self, first: int, last: int) -> Tensor:
        return self.whole_ED[first:last].float() * self.scale_E[first:last, None]


@dataclass(frozen=True)
class Int4:
    """(half - 8) * scale + offset: halves of bytes from 0 to 15, in groups of equally many
    inputs, of which the last may be short.

    With `order_D` the columns of `half_ED` are not the weight's: column k is its column order[k] (GPTQ's act-order).
    """

    half_ED: Tensor  # uint8
    scale_EG: Tensor  # float32
    group: int
    offset_EG: Tensor | None = None  # float32
    order_D: Tensor | None = None  # int64

    @property
    def shape(self) -> tuple[int, int]:
        return self.half_ED.shape[0], self.half_ED.shape[1]

    def rows(self, first: int, last: int) -> Tensor:
        weight = (self.half_ED[first:last].float() - 8) * self._wide(self.scale_EG[first:last])
        if self.offset_EG is not None:
            weight += self._wide(self.offset_EG[first:last])
        if self.order_D is None:
            return weight
        return torch.empty_like(weight).index_copy_(1, self.order_D, weight)

    def _wide(self, each_EG: Tensor) -> Tensor:
        return each_EG.repeat_interleave(self.group, 1)[:, : self.shape[1]]


def write(stored: Stored, target: Tensor) -> None:
    """Dequantize into memory of any type, a block of rows at a time."""
    outputs, inputs = stored.shape
    step = max(BLOCK // max(inputs, 1), 1)
    for first in range(0, outputs, step):
        last = min(first + step, outputs)
        target[first:last] = stored.rows(first, last)


def reordered(weight: Stored, order_E: Tensor) -> Stored | Tensor:
    """Its outputs in another order: a tensor in float32 where it is in no form that kernels compute in."""
    if isinstance(weight, Int8):
        return Int8(weight.whole_ED[order_E], weight.scale_E[order_E])
    if isinstance(weight, Int4):
        offset_EG = None if weight.offset_EG is None else weight.offset_EG[order_E]
        return replace(weight, half_ED=weight.half_ED[order_E], scale_EG=weight.scale_EG[order_E], offset_EG=offset_EG)
    return weight.rows(0, weight.shape[0])[order_E]
