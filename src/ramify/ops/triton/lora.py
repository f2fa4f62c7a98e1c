"""What low-rank adapters add to a linear: y += scale (x down') up', every row with the adapter of its run.

A program has a slot and a tile of rows, of which it computes those of its slot: so an adapter's weights are read once
for a tile. Where there are many runs, as behind experts, rows are sorted by slot before, and a program has a tile of
them. Two kernels do what `linear` does in one, as the outputs need all ranks: x down' in slices of K that depend on
its size alone, and up' times the slices' sum, rank by rank. Ranks stand on the M side of the first product, 16 at a
time, and outputs on that of the second; so a row's bits are its own. Where adapters stand, and how large they are, is
read from the table on the device: a captured step takes others when they come.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.lora import FIELDS, LowRanks
from ramify.ops.triton.experts import sorted_rows
from ramify.ops.triton.linear import part_of_product, product
from ramify.ops.triton.tiles import FEW, group_of

SLICE = 1024  # inputs that are summed up by themselves
RANKS = 16  # of a tile
OUTPUTS = 64
MANY = 512  # runs with which rows are sorted
STEP = 64  # runs that are looked at together
DOWN, UP, RANK, BEGIN, WIDTH, SCALE = (tl.constexpr(field) for field in range(FIELDS))
STRIDE = tl.constexpr(FIELDS)


@triton.jit
def slots_of(runs_ptr, slot_ptr, rows, none, PIECE: tl.constexpr):
    """The slot of each row of a run. Those that no run has were given `none` before."""
    run = runs_ptr + tl.program_id(0) * 3
    start, stop, slot = tl.load(run), tl.minimum(tl.load(run + 1), rows), tl.load(run + 2)
    for first in range(start, stop, PIECE):
        t = first + tl.arange(0, PIECE)
        tl.store(slot_ptr + t, tl.where(slot < 0, none, slot), mask=t < stop)


@triton.jit
def slot_among(runs_ptr, runs, t, STEP: tl.constexpr):
    """The slots of rows t, found in all runs; -1 where there is none."""
    found = tl.zeros_like(t) - 1
    for first in range(0, runs, STEP):
        n = first + tl.arange(0, STEP)
        start = tl.load(runs_ptr + 3 * n, mask=n < runs, other=0)
        stop = tl.load(runs_ptr + 3 * n + 1, mask=n < runs, other=0)
        slot = tl.load(runs_ptr + 3 * n + 2, mask=n < runs, other=-1)
        inside = (start[None, :] <= t[:, None]) & (t[:, None] < stop[None, :])
        found = tl.maximum(found, tl.max(tl.where(inside, slot[None, :], -1), 1))
    return found


@triton.jit
def own_rows(
    runs_ptr,
    order_ptr,
    ends_ptr,
    rows,
    runs,
    slots,
    SORTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BT: tl.constexpr,
    STEP: tl.constexpr,
):
    """The slot of this program, its rows, where they stand in between, and which of them there are."""
    if SORTED:
        slot, first, end = group_of(tl.program_id(0), ends_ptr, slots, BLOCK, BT)
        at = first + tl.arange(0, BT)
        there = at < end  # which is 0 where there is no such slot
        row = tl.load(order_ptr + at, mask=there, other=0)
    else:
        slot = tl.program_id(0) % slots
        at = tl.program_id(0) // slots * BT + tl.arange(0, BT)
        there = (at < rows) & (slot_among(runs_ptr, runs, at, STEP) == slot)
        row = at.to(tl.int64)
    return slot, row, at, there


@triton.jit
def shrink(
    x_ptr,
    runs_ptr,
    order_ptr,
    ends_ptr,
    places_ptr,
    inner_ptr,
    rows,
    runs,
    slots,
    x_stride,
    K: tl.constexpr,
    SLICE: tl.constexpr,
    SLICES: tl.constexpr,
    WHOLE: tl.constexpr,
    MOST: tl.constexpr,
    ROOM: tl.constexpr,
    SORTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    STEP: tl.constexpr,
):
    """inner [slices, row of the order, part, rank]: all slices together where `WHOLE`."""
    slot, row, at, there = own_rows(runs_ptr, order_ptr, ends_ptr, rows, runs, slots, SORTED, BLOCK, BT, STEP)
    part, tile_r = tl.program_id(1) // (ROOM // BR), tl.program_id(1) % (ROOM // BR)
    if tl.sum(there.to(tl.int32)) == 0:
        return
    place = places_ptr + (slot * MOST + part) * STRIDE
    rank = tl.load(place + RANK).to(tl.int32)
    if tile_r * BR >= rank:
        return
    down_ptr = tl.load(place + DOWN).to(tl.pointer_type(x_ptr.dtype.element_ty))
    down_ptr = tl.multiple_of(down_ptr, 16)
    r, x_row = tile_r * BR + tl.arange(0, BR), row * x_stride
    r_there = r < rank
    if WHOLE:
        total = product(down_ptr, x_ptr, r * K, x_row, r_there, there, K, SLICE, SLICES, BR, BT, BK)
    else:
        begin, last = tl.program_id(2) * SLICE, tl.minimum((tl.program_id(2) + 1) * SLICE, K)
        total = part_of_product(down_ptr, x_ptr, r * K, x_row, r_there, there, begin, last, BR, BT, BK)
    own = inner_ptr + (tl.program_id(2).to(tl.int64) * rows + at[None, :]) * (MOST * ROOM) + part * ROOM + r[:, None]
    tl.store(own, total, mask=r_there[:, None] & there[None, :])


@triton.jit
def expand(
    y_ptr,
    runs_ptr,
    order_ptr,
    ends_ptr,
    places_ptr,
    inner_ptr,
    rows,
    runs,
    slots,
    y_stride,
    TILES: tl.constexpr,
    SLICES: tl.constexpr,
    MOST: tl.constexpr,
    ROOM: tl.constexpr,
    SORTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BR: tl.constexpr,
    STEP: tl.constexpr,
):
    """`SLICES` of inner are added in their order. `TILES` tiles of outputs are enough for the widest part."""
    slot, row, at, there = own_rows(runs_ptr, order_ptr, ends_ptr, rows, runs, slots, SORTED, BLOCK, BT, STEP)
    part, tile_e = tl.program_id(1) // TILES, tl.program_id(1) % TILES
    if tl.sum(there.to(tl.int32)) == 0:
        return
    place = places_ptr + (slot * MOST + part) * STRIDE
    rank, outputs = tl.load(place + RANK).to(tl.int32), tl.load(place + WIDTH).to(tl.int32)
    if (rank == 0) | (tile_e * BE >= outputs):
        return
    up_ptr = tl.load(place + UP).to(tl.pointer_type(y_ptr.dtype.element_ty))
    up_ptr = tl.multiple_of(up_ptr, 16)
    scale = tl.load(place + SCALE).to(tl.float64, bitcast=True).to(tl.float32)
    e = tile_e * BE + tl.arange(0, BE)
    e_there = e < outputs
    total = tl.zeros([BE, BT], tl.float32)
    for r_first in range(0, rank, BR):
        r = r_first + tl.arange(0, BR)
        inside = (r < rank)[:, None] & there[None, :]
        own = inner_ptr + at.to(tl.int64)[None, :] * (MOST * ROOM) + part * ROOM + r[:, None]
        inner = tl.load(own, mask=inside, other=0.0)
        for _ in tl.static_range(1, SLICES):
            own += tl.cast(rows, tl.int64) * (MOST * ROOM)
            inner += tl.load(own, mask=inside, other=0.0)
        up = tl.load(up_ptr + r[:, None] * outputs + e[None, :], mask=(r < rank)[:, None] & e_there[None, :], other=0.0)
        total = narrow_times_wide(tl.trans(up), inner * scale, total)
    own = y_ptr + row[None, :] * y_stride + tl.load(place + BEGIN) + e[:, None]
    inside = e_there[:, None] & there[None, :]
    y = tl.load(own, mask=inside, other=0.0).to(tl.float32) + total
    tl.store(own, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def narrow_times_wide(narrow, wide, total):
    """A product of the model's type with float32: the latter in two pieces of the former, which have 16 bits or more of
    it together.
    """
    if narrow.dtype == tl.float32:
        total = tl.dot(narrow, wide, total, input_precision="ieee")
    else:
        high = wide.to(narrow.dtype)
        total = tl.dot(narrow, (wide - high.to(tl.float32)).to(narrow.dtype), total)
        total = tl.dot(narrow, high, total)
    return total


class Loras:
    """Behind the signature of `ops.kernels`. More than `many` runs are sorted by slot."""

    def __init__(self, many: int = MANY) -> None:
        self._many = many

    def lora(self, y_TE: Tensor, x_TD: Tensor, runs_N3: Tensor, table: LowRanks) -> None:
        """The launches depend on shapes alone, and on how large an adapter may be."""
        assert y_TE.stride(1) == 1
        if not len(x_TD) or not len(runs_N3) or not table.room:
            return
        x_TD, runs_N3 = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous(), runs_N3.contiguous()
        if len(runs_N3) <= self._many:
            self._add(y_TE, x_TD, runs_N3, None, table)
        else:
            self._add(y_TE, x_TD, runs_N3, by_slot(runs_N3, len(x_TD), len(table)), table)

    def _add(
        self, y_TE: Tensor, x_TD: Tensor, runs_N3: Tensor, order: tuple[Tensor, Tensor] | None, table: LowRanks
    ) -> None:
        (rows, inputs), most, room = x_TD.shape, table.places.shape[1], -(-table.room // RANKS) * RANKS
        slices = triton.cdiv(inputs, SLICE)
        whole = slices == 1 or rows > FEW
        parts, tile = 1 if whole else slices, min(max(triton.next_power_of_2(rows), 16), 64)
        inner = torch.empty(parts, rows, most * room, dtype=torch.float32, device=x_TD.device)
        given = (runs_N3, *(order or (runs_N3, runs_N3)), table.places, inner, rows, len(runs_N3), len(table))
        sizes = {"MOST": most, "ROOM": room, "SORTED": order is not None, "BT": tile, "BR": RANKS, "STEP": STEP}
        sizes["BLOCK"] = triton.next_power_of_2(len(table))
        tiles = triton.cdiv(rows, tile)
        tiles = tiles * len(table) if order is None else min(tiles + len(table), rows)
        shrink[(tiles, most * (room // RANKS), parts)](
            x_TD,
            *given,
            x_TD.stride(0),
            K=inputs,
            SLICE=SLICE,
            SLICES=slices,
            WHOLE=whole,
            BK=128 // x_TD.element_size(),
            **sizes,
        )
        wide = triton.cdiv(y_TE.shape[1], OUTPUTS)
        expand[(tiles, most * wide)](y_TE, *given, y_TE.stride(0), TILES=wide, SLICES=parts, BE=OUTPUTS, **sizes)


def by_slot(runs_N3: Tensor, rows: int, slots: int) -> tuple[Tensor, Tensor]:
    """Rows sorted by slot, and where those of each end: behind all others, those of none."""
    slot_T = torch.full((rows,), slots, dtype=torch.int32, device=runs_N3.device)
    slots_of[(len(runs_N3),)](runs_N3, slot_T, rows, slots, PIECE=1024)
    order_T, ends_S, _ = sorted_rows(slot_T, slots + 1, 1)
    return order_T, ends_S
