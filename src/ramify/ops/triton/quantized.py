"""Linears over quantized weights: int8 and fp8 with inputs alike (W8A8), and int4 with inputs as they are (W4A16).

Stored is one tensor of bytes: all numbers, in rows that begin at multiples of 16 bytes, and behind them all scales;
experts as if the outputs of all were those of one.
Sums of int8 are exact, so their order is free; the others keep that of `ops.triton.linear`, with one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor

import triton
from ramify.config.stored import GROUP
from ramify.ops.reference import fp8, int4, int8
from ramify.ops.triton.experts import group_grid, tokens_of_a_tile
from ramify.ops.triton.rows import number_and_scale, warps_for, whole_and_scale
from ramify.ops.triton.tiles import GROUPED, Tile, Tiles, finish, group_tile_at, tile_at

WIDTH = 16  # bytes that are read at once: rows begin at multiples of it
LARGEST_FP8 = tl.constexpr(448.0)
HALF = tl.constexpr(16)  # bytes of a group of 32 inputs in int4


@triton.jit
def quantize(
    x_ptr,
    number_ptr,
    scale_ptr,
    x_stride,
    SIZE: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    FP8: tl.constexpr,
):
    """A row of inputs, filled up with zeros."""
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_stride + d, mask=d < SIZE, other=0.0).to(tl.float32)
    if FP8:
        number, scale = number_and_scale(x, LARGEST_FP8)
        number = tl.minimum(tl.maximum(number, -LARGEST_FP8), LARGEST_FP8)
    else:
        number, scale = whole_and_scale(x)
    tl.store(number_ptr + row * ROW + d, number.to(number_ptr.dtype.element_ty), mask=d < ROW)
    tl.store(scale_ptr + row, scale)


@triton.jit
def own_tile(
    ends_ptr,
    tokens,
    groups,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """The tile of this program, and its group of tokens: 0 where they are not sorted."""
    if BLOCK:
        group, e, t, e_there, t_there = group_tile_at(ends_ptr, groups, E, BLOCK, BE, BT)
    else:
        group = tl.zeros([], tl.int32)
        e, t, e_there, t_there = tile_at(tokens, E, BE, BT, GROUPED)
    return group, e, t, e_there, t_there


@triton.jit
def linear_w8a8(
    x_ptr,
    x_scale_ptr,
    w_ptr,
    w_scale_ptr,
    bias_ptr,
    y_ptr,
    ends_ptr,
    tokens,
    groups,
    E: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS: tl.constexpr,
    FP8: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """Rows of `ROW` bytes of both; tokens are sorted by group where there is a `BLOCK` of groups."""
    group, e, t, e_there, t_there = own_tile(ends_ptr, tokens, groups, E, BLOCK, BE, BT, GROUPED)
    if group == groups:
        return
    row = group.to(tl.int64) * E + e
    w_row, x_row = row * ROW, t.to(tl.int64) * ROW
    if FP8:
        total = tl.zeros([BE, BT], tl.float32)
    else:
        total = tl.zeros([BE, BT], tl.int32)
    for k_first in range(0, ROW, BK):
        k = k_first + tl.arange(0, BK)
        w = tl.load(w_ptr + w_row[:, None] + k[None, :], mask=e_there[:, None] & (k < ROW)[None, :], other=0.0)
        x = tl.load(x_ptr + x_row[:, None] + k[None, :], mask=t_there[:, None] & (k < ROW)[None, :], other=0.0)
        if FP8:
            total = tl.dot(w, tl.trans(x), total)
        else:
            total = tl.dot(w, tl.trans(x), total, out_dtype=tl.int32)
    w_scale = tl.load(w_scale_ptr + row, mask=e_there, other=0.0)
    x_scale = tl.load(x_scale_ptr + t, mask=t_there, other=0.0)
    y = total.to(tl.float32) * (w_scale[:, None] * x_scale[None, :])
    finish(y, bias_ptr + group * E, y_ptr, e, t, e_there, t_there, E, BIAS)


@triton.jit
def linear_w4a16(
    x_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    ends_ptr,
    tokens,
    groups,
    x_stride,
    E: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BYTES: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """`BYTES` bytes of weights a step: the inputs in their low halves are multiplied first, then those in the high.
    Tokens are sorted by group where there is a `BLOCK` of groups; each of the `GROUPS` of inputs has a scale.
    """
    group, e, t, e_there, t_there = own_tile(ends_ptr, tokens, groups, E, BLOCK, BE, BT, GROUPED)
    if group == groups:
        return
    row = group.to(tl.int64) * E + e
    total = tl.zeros([BE, BT], tl.float32)
    kind = x_ptr.dtype.element_ty
    for first in range(0, GROUPS * HALF, BYTES):
        b = first + tl.arange(0, BYTES)
        some = b // HALF
        low, inside = some * (2 * HALF) + b % HALF, e_there[:, None] & (some < GROUPS)[None, :]
        both = tl.load(w_ptr + row[:, None] * (GROUPS * HALF) + b[None, :], mask=inside, other=0)
        scale = tl.load(scale_ptr + row[:, None] * GROUPS + some[None, :], mask=inside, other=0.0)
        scale = scale.to(tl.float32)
        x_at = x_ptr + t.to(tl.int64)[:, None] * x_stride + low[None, :]
        x_low = tl.load(x_at, mask=t_there[:, None] & (low < K)[None, :], other=0.0)
        x_high = tl.load(x_at + HALF, mask=t_there[:, None] & (low + HALF < K)[None, :], other=0.0)
        w_low = (((both & 15).to(tl.float32) - 8.0) * scale).to(kind)
        w_high = (((both >> 4).to(tl.float32) - 8.0) * scale).to(kind)
        total = tl.dot(w_low, tl.trans(x_low), total, input_precision="ieee")
        total = tl.dot(w_high, tl.trans(x_high), total, input_precision="ieee")
    finish(total, bias_ptr + group * E, y_ptr, e, t, e_there, t_there, E, BIAS)


@triton.jit
def embed_int8(tokens_ptr, w_ptr, scale_ptr, y_ptr, size, ROW: tl.constexpr, PIECE: tl.constexpr):
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    token = tl.load(tokens_ptr + row).to(tl.int64)
    x = tl.load(w_ptr + token * ROW + d, mask=d < size, other=0).to(tl.float32) * tl.load(scale_ptr + token)
    tl.store(y_ptr + row * size + d, x, mask=d < size)


@dataclass(frozen=True)
class Work:
    """How a linear is launched, over tokens as they are or sorted by group."""

    grid: tuple[int, ...]
    tile: Tile
    sizes: dict[str, int]

    @classmethod
    def of(
        cls, tiles: Tiles, kind: str, tokens: int, outputs: int, inputs: int, element: int, ends_G: Tensor | None
    ) -> Work:
        if ends_G is None:
            tile = tiles.of(kind, tokens, outputs, inputs, element)
            grid: tuple[int, ...] = (triton.cdiv(outputs, tile.outputs) * triton.cdiv(tokens, tile.tokens),)
            block = 0
        else:
            groups = len(ends_G)
            tile = tiles.of(f"grouped {kind}", tokens_of_a_tile(tokens, groups), outputs, inputs, element)
            grid, block = group_grid(tokens, groups, outputs, tile), triton.next_power_of_2(groups)
        return cls(grid, tile, {"E": outputs, "BLOCK": block, "BE": tile.outputs, "BT": tile.tokens})


class EightBits:
    """Behind `Packing`, for numbers of a byte each: rows of them, and behind all rows their scales in float32."""

    kind: torch.dtype
    name: str

    def __init__(self, tiles: Tiles | None = None) -> None:
        self._tiles = tiles or Tiles()

    def linear(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return self._multiply(x_TD, packed, outputs, bias_E, None)

    def grouped_linear(
        self, x_RD: Tensor, packed: Tensor, outputs: int, bias_GE: Tensor | None, ends_G: Tensor
    ) -> Tensor:
        return self._multiply(x_RD, packed, outputs, bias_GE, ends_G)

    def together(self, packed: Sequence[Tensor], outputs: int) -> Tensor:
        return together(packed, 4 * outputs)

    def _multiply(
        self, x_TD: Tensor, packed: Tensor, outputs: int, bias: Tensor | None, ends_G: Tensor | None
    ) -> Tensor:
        tokens, inputs = x_TD.shape
        y_TE = x_TD.new_empty(tokens, outputs)
        if not tokens:
            return y_TE
        rows = outputs * (1 if ends_G is None else len(ends_G))
        numbers, scales = packed.split([len(packed) - 4 * rows, 4 * rows])
        size = len(numbers) // rows
        x, x_scale = self._quantized(x_TD, size)
        work = Work.of(self._tiles, self.name, tokens, outputs, inputs, 1, ends_G)
        linear_w8a8[work.grid](
            x,
            x_scale,
            numbers.view(self.kind),
            scales.view(torch.float32),
            x_TD if bias is None else bias,
            y_TE,
            x_scale if ends_G is None else ends_G,
            tokens,
            1 if ends_G is None else len(ends_G),
            ROW=size,
            BIAS=bias is not None,
            FP8=self.kind is fp8.KIND,
            BK=work.tile.inputs,
            GROUPED=GROUPED,
            num_warps=work.tile.warps,
            num_stages=work.tile.stages,
            **work.sizes,
        )
        return y_TE

    def _quantized(self, x_TD: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Rows of `size` numbers, and their scales."""
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        (tokens, inputs), block = x_TD.shape, triton.next_power_of_2(x_TD.shape[1] + WIDTH)
        number, scale = x_TD.new_empty(tokens, size, dtype=self.kind), x_TD.new_empty(tokens, dtype=torch.float32)
        quantize[(tokens,)](
            x_TD,
            number,
            scale,
            x_TD.stride(0),
            SIZE=inputs,
            ROW=size,
            BLOCK=block,
            FP8=self.kind is fp8.KIND,
            num_warps=warps_for(block),
        )
        return number, scale


class Int8(EightBits):
    kind, name = torch.int8, "int8"

    def pack(self, weight_ED: Tensor) -> Tensor:
        whole, scale = int8.whole_and_scale(weight_ED)
        return self.take(whole.to(torch.int8), scale[:, 0])

    def pack_groups(self, weight_GED: Tensor) -> Tensor:
        return self.pack(weight_GED.flatten(0, 1))

    def take(self, whole_ED: Tensor, scale_E: Tensor) -> Tensor:
        rows = F.pad(whole_ED, (0, -whole_ED.shape[1] % WIDTH))
        return torch.cat((rows.flatten(), scale_E.float().contiguous().view(torch.int8)))

    def embed(self, tokens_T: Tensor, packed: Tensor, inputs: int) -> Tensor:
        row = -(-inputs // WIDTH) * WIDTH
        outputs = len(packed) // (row + 4)
        numbers, scales = packed[: row * outputs], packed[row * outputs :].view(torch.float32)
        y_TD = torch.empty(len(tokens_T), inputs, device=packed.device)
        if len(tokens_T):
            grid = (len(tokens_T), triton.cdiv(inputs, 1024))
            embed_int8[grid](tokens_T.contiguous(), numbers, scales, y_TD, inputs, ROW=row, PIECE=1024)
        return y_TD


class Fp8(EightBits):
    """e4m3; stored as the reference stores it."""

    kind, name = fp8.KIND, "fp8"

    def pack(self, weight_ED: Tensor) -> Tensor:
        return fp8.store(weight_ED)

    def pack_groups(self, weight_GED: Tensor) -> Tensor:
        return self.pack(weight_GED.flatten(0, 1))


class Int4:
    """Behind `Packing`, for int4. Inputs stay as they are: see `ops.reference.int4.wide_linear`."""

    def __init__(self, tiles: Tiles | None = None) -> None:
        self._tiles = tiles or Tiles()

    def pack(self, weight_ED: Tensor) -> Tensor:
        return self._stored(int4.store(weight_ED))

    def pack_groups(self, weight_GED: Tensor) -> Tensor:
        return self.pack(weight_GED.flatten(0, 1))

    def take(self, half_ED: Tensor, scale_EG: Tensor) -> Tensor:
        return self._stored(int4.take(half_ED, scale_EG))

    def together(self, packed: Sequence[Tensor], outputs: int) -> Tensor:
        return together(packed, 2 * (len(packed[0]) // (GROUP // 2 + 2)))

    def _stored(self, rows_EGB: Tensor) -> Tensor:
        """From groups with their scales behind them to all numbers and all scales."""
        return torch.cat((rows_EGB[..., :-2].flatten(), rows_EGB[..., -2:].flatten()))

    def linear(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return self._multiply(x_TD, packed, outputs, bias_E, None)

    def grouped_linear(
        self, x_RD: Tensor, packed: Tensor, outputs: int, bias_GE: Tensor | None, ends_G: Tensor
    ) -> Tensor:
        return self._multiply(x_RD, packed, outputs, bias_GE, ends_G)

    def _multiply(
        self, x_TD: Tensor, packed: Tensor, outputs: int, bias: Tensor | None, ends_G: Tensor | None
    ) -> Tensor:
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        tokens, inputs = x_TD.shape
        y_TE = x_TD.new_empty(tokens, outputs)
        if not tokens:
            return y_TE
        scales = 2 * (len(packed) // (GROUP // 2 + 2))
        numbers, scale = packed.split([len(packed) - scales, scales])
        work = Work.of(self._tiles, "int4", tokens, outputs, inputs, x_TD.element_size(), ends_G)
        linear_w4a16[work.grid](
            x_TD,
            numbers,
            scale.view(torch.bfloat16),
            x_TD if bias is None else bias,
            y_TE,
            numbers if ends_G is None else ends_G,
            tokens,
            1 if ends_G is None else len(ends_G),
            x_TD.stride(0),
            K=inputs,
            GROUPS=-(-inputs // GROUP),
            BIAS=bias is not None,
            BYTES=32,
            GROUPED=GROUPED,
            num_warps=work.tile.warps,
            num_stages=min(work.tile.stages, 3),
            **work.sizes,
        )
        return y_TE


def together(packed: Sequence[Tensor], scales: int) -> Tensor:
    """Of groups packed each by itself, with so many bytes of scales, all numbers and then all scales."""
    numbers = [each[: len(each) - scales] for each in packed]
    return torch.cat((*numbers, *(each[len(each) - scales :] for each in packed)))
