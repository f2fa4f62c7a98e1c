"""Linears whose rows have bits of their own, whatever is computed beside them.

The order of the sum over K is fixed by the shape of the weight: K is cut in `slices_of` slices, each is summed up by
matrix instructions from its first block of BK inputs to its last, and the slices are added in their order. Tiles of
outputs and of tokens may be of any size, and a slice may be a program of its own or one after another in the same.

Tokens stand on the N side of the matrix instruction and outputs on its M side, of which there are always enough: so it
is the same instruction for one token and for thousands (wgmma takes 64 of M at least, and 8 of N).

    y'  [E, T]  =  weight [E, K]  x  x' [K, T]
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.triton.tiles import FEW, GROUPED, Tiles, finish, tile_at

PROGRAMS = 132  # that a device has room for, one to a multiprocessor


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
def product(
    w_ptr,
    x_ptr,
    w_row,
    x_row,
    e_there,
    t_there,
    K: tl.constexpr,
    SLICE: tl.constexpr,
    SLICES: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """weight x', [BE, BT] in float32: all slices, added in their order."""
    total = part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, 0, tl.minimum(SLICE, K), BE, BT, BK)
    for slice_ in range(1, SLICES):
        first, last = slice_ * SLICE, tl.minimum((slice_ + 1) * SLICE, K)
        total += part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, first, last, BE, BT, BK)
    return total


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
    e, t, e_there, t_there = tile_at(tokens, E, BE, BT, GROUPED)
    w_row, x_row = e.to(tl.int64) * K, t.to(tl.int64) * x_stride
    if WHOLE:
        total = product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, K, SLICE, SLICES, BE, BT, BK)
        finish(total, bias_ptr, y_ptr, e, t, e_there, t_there, E, BIAS)
    else:
        first, last = tl.program_id(1) * SLICE, tl.minimum((tl.program_id(1) + 1) * SLICE, K)
        part = part_of_product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, first, last, BE, BT, BK)
        own = parts_ptr + tl.program_id(1).to(tl.int64) * tokens * E
        finish(part, bias_ptr, own, e, t, e_there, t_there, E, False)


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

    def __init__(self, tiles: Tiles | None = None) -> None:
        self._tiles = tiles or Tiles()

    def linear(self, x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
        if x_TD.stride(1) != 1:
            x_TD = x_TD.contiguous()
        tokens, (outputs, inputs) = len(x_TD), weight_ED.shape
        y_TE = x_TD.new_empty(tokens, outputs)
        if not tokens:
            return y_TE
        slices, size = slices_of(outputs, inputs)
        tile = self._tiles.of("linear", tokens, outputs, inputs, x_TD.element_size())
        whole = slices == 1 or tokens > FEW
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
