"""What kernels need to know of low-rank adapters (Hu et al. 2021): what each does to a linear, by slot."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

FIELDS = 6  # of `LowRanks.places`


@dataclass(frozen=True)
class LowRank:
    """What an adapter does to one part of one (fused) linear: y[:, begin:begin + E] += scale (x down') up'."""

    down_RD: Tensor
    up_ER: Tensor
    scale: float
    begin: int = 0

    def arranged(self, dtype: torch.dtype) -> LowRank:
        """As kernels read it: `down` dense, and `up` dense as [R, E]. No copy where it is so already."""
        down_RD, up_ER = self.down_RD.to(dtype).contiguous(), self.up_ER.to(dtype).T.contiguous().T
        return replace(self, down_RD=down_RD, up_ER=up_ER)


class LowRanks(Sequence[tuple[LowRank, ...]]):
    """The adapters of one linear by slot; an empty slot is (). Parts of a slot have different outputs.

    `places` says the same to compiled kernels, and stays where it is: int64 [slots, most, FIELDS] of addresses of
    `down` and `up`, rank, begin, outputs, and the bits of the scale as a double. Rank 0 is no part.
    """

    def __init__(self, slots: int, most: int, dtype: torch.dtype) -> None:
        self._parts: list[tuple[LowRank, ...]] = [()] * slots
        self._dtype = dtype
        self.places = torch.zeros(slots, most, FIELDS, dtype=torch.int64)

    def put(self, slot: int, parts: Iterable[LowRank]) -> None:
        """Not while a kernel runs. What stood in the slot is let go."""
        kept = tuple(part.arranged(self._dtype) for part in parts)
        self.places[slot] = 0
        for at, part in enumerate(kept):
            self.places[slot, at] = torch.tensor(_place(part))
        self._parts[slot] = kept

    @property
    def ranks(self) -> int:
        """The most that the parts of one slot have together."""
        return max(sum(part.down_RD.shape[0] for part in each) for each in self._parts)

    @overload
    def __getitem__(self, slot: int) -> tuple[LowRank, ...]: ...
    @overload
    def __getitem__(self, slot: slice) -> Sequence[tuple[LowRank, ...]]: ...
    def __getitem__(self, slot: int | slice) -> tuple[LowRank, ...] | Sequence[tuple[LowRank, ...]]:
        return self._parts[slot]

    def __len__(self) -> int:
        return len(self._parts)


def _place(part: LowRank) -> list[int]:
    (bits,) = struct.unpack("q", struct.pack("d", part.scale))
    outputs, rank = part.up_ER.shape
    return [part.down_RD.data_ptr(), part.up_ER.data_ptr(), rank, part.begin, outputs, bits]
