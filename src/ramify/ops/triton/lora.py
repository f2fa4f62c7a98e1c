"""What low-rank adapters add to a linear: y += scale (x down') up', every row with the adapter of its run.

Rows are sorted by slot on the device, so that an adapter's weights are read once for a tile of its rows. Two kernels
then do what `linear` does in one, as the outputs need all ranks: x down' in slices of K that depend on its size alone,
and up' times the slices' sum, rank by rank. Ranks stand on the M side of the first product, 16 at a time, and outputs
on that of the second; so a row's bits are its own. Where adapters stand, and how large they are, is read from the table
on the device: a captured step takes others when they come.
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
def shrink(
    x_ptr,
    order_ptr,
    ends_ptr,
    places_ptr,
    inner_ptr,
    rows,
    slots,
    x_stride,
    K: tl.constexpr,
    SLICE: tl.constexpr,
    SLICES: tl.constexpr,
    WHOLE: tl.constexpr,
    MOST: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """inner [slices, row of the order, part, rank]: all slices together where `WHOLE`."""
    slot, first, end = group_of(tl.program_id(0), ends_ptr, slots, BLOCK, BT)
    part, tile_r = tl.program_id(1) // (ROOM // BR), tl.program_id(1) % (ROOM // BR)
    if slot == slots:
        return
    place = places_ptr + (slot * MOST + part) * STRIDE
    rank = tl.load(place + RANK).to(tl.int32)
    if tile_r * BR >= rank:
        return
    down_ptr = tl.load(place + DOWN).to(tl.pointer_type(x_ptr.dtype.element_ty))
    down_ptr = tl.multiple_of(down_ptr, 16)
    r, at = tile_r * BR + tl.arange(0, BR), first + tl.arange(0, BT)
    r_there, there = r < rank, at < end
    row = tl.load(order_ptr + at, mask=there, other=0) * x_stride
    if WHOLE:
        total = product(down_ptr, x_ptr, r * K, row, r_there, there, K, SLICE, SLICES, BR, BT, BK)
    else:
        begin, last = tl.program_id(2) * SLICE, tl.minimum((tl.program_id(2) + 1) * SLICE, K)
        total = part_of_product(down_ptr, x_ptr, r * K, row, r_there, there, begin, last, BR, BT, BK)
    own = inner_ptr + (tl.program_id(2).to(tl.int64) * rows + at[None, :]) * (MOST * ROOM) + part * ROOM + r[:, None]
    tl.store(own, total, mask=r_there[:, None] & there[None, :])


@triton.jit
def expand(
    y_ptr,
    order_ptr,
    ends_ptr,
    places_ptr,
    inner_ptr,
    rows,
    slots,
    y_stride,
    TILES: tl.constexpr,
    SLICES: tl.constexpr,
    MOST: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BR: tl.constexpr,
):
    """`SLICES` of inner are added in their order. `TILES` tiles of outputs are enough for the widest part."""
    slot, first, end = group_of(tl.program_id(0), ends_ptr, slots, BLOCK, BT)
    part, tile_e = tl.program_id(1) // TILES, tl.program_id(1) % TILES
    if slot == slots:
        return
    place = places_ptr + (slot * MOST + part) * STRIDE
    rank, outputs = tl.load(place + RANK).to(tl.int32), tl.load(place + WIDTH).to(tl.int32)
    if (rank == 0) | (tile_e * BE >= outputs):
        return
    up_ptr = tl.load(place + UP).to(tl.pointer_type(y_ptr.dtype.element_ty))
    up_ptr = tl.multiple_of(up_ptr, 16)
    scale = tl.load(place + SCALE).to(tl.float64, bitcast=True).to(tl.float32)
    e, at = tile_e * BE + tl.arange(0, BE), first + tl.arange(0, BT)
    e_there, there = e < outputs, at < end
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
    t = tl.load(order_ptr + at, mask=there, other=0)
    own = y_ptr + t[None, :] * y_stride + tl.load(place + BEGIN) + e[:, None]
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
    """Behind the signature of `ops.kernels`."""

    def lora(self, y_TE: Tensor, x_TD: Tensor, runs_N3: Tensor, table: LowRanks) -> None:
        """The launches depend on shapes alone, and on how large an adapter may be."""
        rows = len(x_TD)
        if not rows or not len(runs_N3) or not table.room:
            return
        assert y_TE.stride(1) == 1
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        none = len(table)
        slot_T = torch.full((rows,), none, dtype=torch.int32, device=x_TD.device)
        slots_of[(len(runs_N3),)](runs_N3.contiguous(), slot_T, rows, none, PIECE=1024)
        order_T, ends_S, _ = sorted_rows(slot_T, none + 1, 1)
        self._add(y_TE, x_TD, order_T, ends_S, table)

    def _add(self, y_TE: Tensor, x_TD: Tensor, order_T: Tensor, ends_S: Tensor, table: LowRanks) -> None:
        (rows, inputs), most, room = x_TD.shape, table.places.shape[1], -(-table.room // RANKS) * RANKS
        slices = triton.cdiv(inputs, SLICE)
        whole = slices == 1 or rows > FEW
        parts = 1 if whole else slices
        inner = torch.empty(parts, rows, most * room, dtype=torch.float32, device=x_TD.device)
        tile = 16 if rows <= FEW else 64
        tiles = min(triton.cdiv(rows, tile) + len(table), rows)
        given = (order_T, ends_S, table.places, inner, rows, len(table))
        sizes = {"MOST": most, "ROOM": room, "BLOCK": triton.next_power_of_2(len(table)), "BT": tile, "BR": RANKS}
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
