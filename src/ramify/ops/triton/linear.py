"""Linears whose rows have bits of their own, whatever is computed beside them.

The order of the sum over K is fixed by the shape of the weight: K is cut in `slices_of` slices, each is summed up by
matrix instructions from its first block of BK inputs to its last, and the slices are added in their order. Tiles of
outputs and of tokens may be of any size, and a slice may be a program of its own or one after another in the same.

Tokens stand on the N side of the matrix instruction and outputs on its M side, of which there are always enough: so it
is the same instruction for one token and for thousands (wgmma takes 64 of M at least, and 8 of N).

    y'  [E, T]  =  weight [E, K]  x  x' [K, T]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

import triton

PROGRAMS = 132  # that a device has room for, one to a multiprocessor
GROUPED = 8  # tiles of outputs that are computed side by side: their tokens are read once from far memory


@triton.jit
def part_of_product(
    w_ptr,
    x_ptr,
    w_row,
    x_row,
    e_there,
    t_there,
    first,
    last,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """weight x' over inputs from `first` to before `last`, [BE, BT] in float32. Rows begin at `w_row`, `x_row`."""
    total = tl.zeros([BE, BT], tl.float32)
    for k_first in range(first, last, BK):
        k = k_first + tl.arange(0, BK)
        w = tl.load(w_ptr + w_row[:, None] + k[None, :], mask=e_there[:, None] & (k < last)[None, :], other=0.0)
        x = tl.load(x_ptr + x_row[:, None] + k[None, :], mask=t_there[:, None] & (k < last)[None, :], other=0.0)
        total = tl.dot(w, tl.trans(x), total, input_precision="ieee")
    return total


@triton.jit
def tile_of(program, tiles_e, tiles_t, GROUPED: tl.constexpr):
    """(tile of outputs, tile of tokens): GROUPED tiles of outputs go through all tokens together."""
    group = program // (GROUPED * tiles_t)
    size = tl.minimum(tiles_e - group * GROUPED, GROUPED)
    within = program % (GROUPED * tiles_t)
    return group * GROUPED + within % size, within // size


@triton.jit
def linear(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    parts_ptr,
    tokens,
    x_stride,
    E: tl.constexpr,
    K: tl.constexpr,
    SLICE: tl.constexpr,
    SLICES: tl.constexpr,
    WHOLE: tl.constexpr,
    BIAS: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """A tile of outputs and tokens: all slices where `WHOLE`, else the slice `program_id(1)` as a part of its own."""
    tile_e, tile_t = tile_of(tl.program_id(0), tl.cdiv(E, BE), tl.cdiv(tokens, BT), GROUPED)
    e, t = tile_e * BE + tl.arange(0, BE), tile_t * BT + tl.arange(0, BT)
    e_there, t_there = e < E, t < tokens
    w_row, x_row = e.to(tl.int64) * K, t.to(tl.int64) * x_stride
    at = t.to(tl.int64)[None, :] * E + e[:, None]
    there = e_there[:, None] & t_there[None, :]
    if WHOLE:
        total = part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, 0, tl.minimum(SLICE, K), BE, BT, BK)
        for slice_ in range(1, SLICES):
            first, last = slice_ * SLICE, tl.minimum((slice_ + 1) * SLICE, K)
            total += part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, first, last, BE, BT, BK)
        if BIAS:
            total += tl.load(bias_ptr + e, mask=e_there, other=0.0).to(tl.float32)[:, None]
        tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=there)
    else:
        first, last = tl.program_id(1) * SLICE, tl.minimum((tl.program_id(1) + 1) * SLICE, K)
        part = part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, first, last, BE, BT, BK)
        tl.store(parts_ptr + tl.program_id(1).to(tl.int64) * tokens * E + at, part, mask=there)


@triton.jit
def add_slices(
    parts_ptr, bias_ptr, y_ptr, count, E: tl.constexpr, SLICES: tl.constexpr, BIAS: tl.constexpr, PIECE: tl.constexpr
):
    """In their order, as `linear` does where it has them all."""
    at = tl.program_id(0).to(tl.int64) * PIECE + tl.arange(0, PIECE)
    total = tl.load(parts_ptr + at, mask=at < count, other=0.0)
    for slice_ in tl.static_range(1, SLICES):
        total += tl.load(parts_ptr + slice_ * count + at, mask=at < count, other=0.0)
    if BIAS:
        total += tl.load(bias_ptr + at % E, mask=at < count, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=at < count)


@triton.jit
def group_of(program, ends_ptr, GROUPS: tl.constexpr, BLOCK: tl.constexpr, BT: tl.constexpr):
    """Of a tile of rows that are sorted by group: its group, or GROUPS behind the last, and its first and last rows."""
    g = tl.arange(0, BLOCK)
    end = tl.load(ends_ptr + g, mask=g < GROUPS, other=0)
    begin = tl.load(ends_ptr + g - 1, mask=(g > 0) & (g < GROUPS), other=0)
    tiles = tl.cumsum(tl.where(g < GROUPS, tl.cdiv(end - begin, BT), 0), 0)
    group = tl.sum(((tiles <= program) & (g < GROUPS)).to(tl.int32), 0)
    before = tl.max(tl.where(g < group, tiles, 0), 0)
    first = tl.sum(tl.where(g == group, begin, 0), 0) + (program - before) * BT
    return group, first, tl.sum(tl.where(g == group, end, 0), 0)


@triton.jit
def grouped_linear(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    ends_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    SLICES: tl.constexpr,
    BIAS: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """Tiles of outputs side by side: those of one group share its rows, and its weight is read once."""
    group, begin, end = group_of(tl.program_id(1), ends_ptr, GROUPS, BLOCK, BT)
    if group == GROUPS:
        return
    e, t = tl.program_id(0) * BE + tl.arange(0, BE), begin + tl.arange(0, BT)
    e_there, t_there = e < E, t < end
    w_row, x_row = (group.to(tl.int64) * E + e) * K, t.to(tl.int64) * K
    total = part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, 0, tl.minimum(SLICE, K), BE, BT, BK)
    for slice_ in range(1, SLICES):
        first, last = slice_ * SLICE, tl.minimum((slice_ + 1) * SLICE, K)
        total += part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, first, last, BE, BT, BK)
    if BIAS:
        total += tl.load(bias_ptr + group * E + e, mask=e_there, other=0.0).to(tl.float32)[:, None]
    at = t.to(tl.int64)[None, :] * E + e[:, None]
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=e_there[:, None] & t_there[None, :])


@triton.jit
def combine(y_ptr, rows_ptr, weights_ptr, out_ptr, size, CHOSEN: tl.constexpr, PIECE: tl.constexpr):
    """The weighted rows of a token, added in the order of its choice."""
    token, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    total = tl.zeros([PIECE], tl.float32)
    for k in tl.static_range(CHOSEN):
        row = tl.load(rows_ptr + token * CHOSEN + k).to(tl.int64)
        y = tl.load(y_ptr + row * size + d, mask=d < size, other=0.0).to(tl.float32)
        total = tl.fma(y, tl.load(weights_ptr + token * CHOSEN + k).to(tl.float32), total)
    tl.store(out_ptr + token * size + d, total.to(out_ptr.dtype.element_ty), mask=d < size)


@dataclass(frozen=True)
class Tile:
    """Outputs and tokens of a tile, inputs of a step, and how the chip works on it. None of it changes a bit."""

    outputs: int
    tokens: int
    inputs: int
    warps: int
    stages: int


def tile_for(tokens: int, element: int) -> Tile:
    """By how many tokens there are: few are read beside the weight, many share what is read of it."""
    inputs = 128 // element
    if tokens <= 64:
        return Tile(64, max(triton.next_power_of_2(tokens), 16), inputs, 4, 5 if element < 4 else 3)
    return Tile(128, 128, inputs, 8, 3)


def slices_of(outputs: int, inputs: int) -> tuple[int, int]:
    """How many slices K has, and their size: as many as it takes that one token's tiles fill the device. A function of
    the weight alone, as the bits depend on it.
    """
    tiles = triton.cdiv(outputs, 64)
    wanted = max(min(triton.cdiv(PROGRAMS, tiles), inputs // 1024), 1)
    size = triton.cdiv(triton.cdiv(inputs, wanted), 128) * 128
    return triton.cdiv(inputs, size), size


class Linears:
    """Behind the signatures of `ops.kernels`."""

    def linear(self, x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
        if x_TD.stride(1) != 1:
            x_TD = x_TD.contiguous()
        tokens, (outputs, inputs) = len(x_TD), weight_ED.shape
        y_TE = x_TD.new_empty(tokens, outputs)
        if not tokens:
            return y_TE
        slices, size = slices_of(outputs, inputs)
        tile = tile_for(tokens, x_TD.element_size())
        whole = slices == 1 or tokens > 64
        parts = y_TE if whole else x_TD.new_empty(slices, tokens, outputs, dtype=torch.float32)
        tiles = triton.cdiv(outputs, tile.outputs) * triton.cdiv(tokens, tile.tokens)
        linear[(tiles, 1 if whole else slices)](
            x_TD,
            weight_ED,
            x_TD if bias_E is None else bias_E,
            y_TE,
            parts,
            tokens,
            x_TD.stride(0),
            E=outputs,
            K=inputs,
            SLICE=size,
            SLICES=slices,
            WHOLE=whole,
            BIAS=bias_E is not None,
            BE=tile.outputs,
            BT=tile.tokens,
            BK=tile.inputs,
            GROUPED=GROUPED,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        if not whole:
            add_slices[(triton.cdiv(y_TE.numel(), 1024),)](
                parts,
                x_TD if bias_E is None else bias_E,
                y_TE,
                y_TE.numel(),
                E=outputs,
                SLICES=slices,
                BIAS=bias_E is not None,
                PIECE=1024,
            )
        return y_TE

    def grouped_linear(self, x_RD: Tensor, weight_GED: Tensor, bias_GE: Tensor | None, ends_G: Tensor) -> Tensor:
        """As many tiles as there may be, whatever the groups are: how the rows are divided is known on the device."""
        x_RD = x_RD.contiguous()
        rows, (groups, outputs, inputs) = len(x_RD), weight_GED.shape
        y_RE = x_RD.new_empty(rows, outputs)
        if not rows:
            return y_RE
        slices, size = slices_of(outputs, inputs)
        tile = tile_for(min(rows, max(2 * rows // groups, 1)), x_RD.element_size())
        most = min(triton.cdiv(rows, tile.tokens) + groups, rows)
        grouped_linear[(triton.cdiv(outputs, tile.outputs), most)](
            x_RD,
            weight_GED,
            x_RD if bias_GE is None else bias_GE,
            y_RE,
            ends_G.to(x_RD.device),
            E=outputs,
            K=inputs,
            GROUPS=groups,
            BLOCK=triton.next_power_of_2(groups),
            SLICE=size,
            SLICES=slices,
            BIAS=bias_GE is not None,
            BE=tile.outputs,
            BT=tile.tokens,
            BK=tile.inputs,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        return y_RE

    def combine(self, y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor) -> Tensor:
        y_RD, rows_TK, weights_TK = y_RD.contiguous(), rows_TK.contiguous(), weights_TK.contiguous()
        (tokens, chosen), size = rows_TK.shape, y_RD.shape[1]
        out_TD = y_RD.new_empty(tokens, size)
        if tokens:
            combine[(tokens, triton.cdiv(size, 1024))](
                y_RD, rows_TK, weights_TK, out_TD, size, CHOSEN=chosen, PIECE=1024
            )
        return out_TD
