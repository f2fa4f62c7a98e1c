"""What kernels need to know of low-rank adapters (Hu et al. 2021): what each does to a linear, by slot."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ramify.ops.staging import HostStaging, Staging

FIELDS = 6  # of `LowRanks.places`
WIDTH = 16  # bytes that kernels read at once
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LowRank:
    """What an adapter does to one part of one (fused) linear: y[:, begin:begin + E] += scale (x down') up'."""

    down_RD: Tensor
    up_ER: Tensor
    scale: float
    begin: int = 0

    def arranged(self, dtype: torch.dtype) -> LowRank:
        """As kernels read it: `down` dense, and `up` dense as [R, E]. No copy where it is so already."""
        down_RD, up_RE = (_aligned(side.to(dtype).contiguous()) for side in (self.down_RD, self.up_ER.T))
        return replace(self, down_RD=down_RD, up_ER=up_RE.T)

    def on(self, device: torch.device) -> LowRank:
        return replace(self, down_RD=self.down_RD.to(device), up_ER=self.up_ER.T.to(device).T)


@dataclass(frozen=True)
class Runs:
    """Which rows of a step have an adapter: `rows_N3` are (start, stop, slot) as `Kernels.lora` takes them, `known` the
    same for the host.
    """

    rows_N3: Tensor
    known: tuple[tuple[int, int, int], ...]

    def lasting(self) -> Runs:
        """To be filled anew: what the host knows of these is of one step."""
        return Runs(self.rows_N3.clone(), ())


class LowRanks(Sequence[tuple[LowRank, ...]]):
    """The adapters of one linear by slot; an empty slot is (). Parts of a slot have different outputs, and stand on
    `device`. With `room`, none has more ranks, and launches are made for so many: a captured step needs that.

    `places` says the same to compiled kernels, and stays where it is: int64 [slots, most, FIELDS] of addresses of
    `down` and `up`, rank, begin, outputs, and the bits of the scale as a double. Rank 0 is no part.
    """

    def __init__(
        self,
        slots: int,
        most: int,
        dtype: torch.dtype,
        room: int | None = None,
        device: torch.device = CPU,
        staging: Staging | None = None,
    ) -> None:
        self._staging = staging or HostStaging()
        self._parts: list[tuple[LowRank, ...]] = [()] * slots
        self._dtype, self._room = dtype, room
        self.places = torch.zeros(slots, most, FIELDS, dtype=torch.int64, device=device)

    def put(self, slot: int, *each: Iterable[LowRank]) -> None:
        """Into a slot, and the next into those behind it; not while a kernel of the CPU runs. What stood there is let
        go.
        """
        places = np.zeros((len(each), *self.places.shape[1:]), dtype=np.int64)
        for number, parts in enumerate(each):
            kept = tuple(part.arranged(self._dtype) for part in parts)
            for at, part in enumerate(kept):
                assert self._room is None or part.down_RD.shape[0] <= self._room
                assert part.down_RD.device == self.places.device
                places[number, at] = _place(part)
            self._parts[slot + number] = kept
        (sent,) = self._staging.send(places)
        self.places[slot : slot + len(each)] = sent

    @property
    def room(self) -> int:
        """Ranks that a part may have: those of the largest where nothing was said."""
        here = (part.down_RD.shape[0] for each in self._parts for part in each)
        return max(here, default=0) if self._room is None else self._room

    @overload
    def __getitem__(self, slot: int) -> tuple[LowRank, ...]: ...
    @overload
    def __getitem__(self, slot: slice) -> Sequence[tuple[LowRank, ...]]: ...
    def __getitem__(self, slot: int | slice) -> tuple[LowRank, ...] | Sequence[tuple[LowRank, ...]]:
        return self._parts[slot]

    def __len__(self) -> int:
        return len(self._parts)


def _aligned(x: Tensor) -> Tensor:
    return x.clone() if x.data_ptr() % WIDTH else x


def _place(part: LowRank) -> list[int]:
    (bits,) = struct.unpack("q", struct.pack("d", part.scale))
    outputs, rank = part.up_ER.shape
    return [part.down_RD.data_ptr(), part.up_ER.data_ptr(), rank, part.begin, outputs, bits]
