"""Linears over quantized weights: int8 and fp8 with inputs alike (W8A8), and int4 with inputs as they are (W4A16).

Stored is one tensor of bytes: all numbers, in rows that begin at multiples of 16 bytes, and behind them all scales.
Sums of int8 are exact, so their order is free; the others keep that of `ops.triton.linear`, with one slice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor

import triton
from ramify.config.stored import GROUP
from ramify.ops.reference import fp8, int4, int8
from ramify.ops.triton.linear import GROUPED, tile_for, tile_of
from ramify.ops.triton.rows import SMALLEST, warps_for, whole_and_scale

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
        most = tl.max(tl.abs(x), 0)
        finite = tl.sum(x * 0.0, 0) == 0.0
        large = most >= SMALLEST
        scale = tl.where(large, tl.div_rn(most, tl.zeros_like(most) + LARGEST_FP8), 0.0)
        inverse = tl.where(large, tl.div_rn(tl.zeros_like(most) + LARGEST_FP8, most), 0.0)
        number = tl.where(finite, tl.minimum(tl.maximum(x * inverse, -LARGEST_FP8), LARGEST_FP8), 0.0)
        scale = tl.where(finite, scale, float("nan"))
    else:
        number, scale = whole_and_scale(x)
    tl.store(number_ptr + row * ROW + d, number.to(number_ptr.dtype.element_ty), mask=d < ROW)
    tl.store(scale_ptr + row, scale)


@triton.jit
def linear_w8a8(
    x_ptr,
    x_scale_ptr,
    w_ptr,
    w_scale_ptr,
    bias_ptr,
    y_ptr,
    tokens,
    E: tl.constexpr,
    ROW: tl.constexpr,
    BIAS: tl.constexpr,
    FP8: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """Rows of `ROW` bytes of both."""
    tile_e, tile_t = tile_of(tl.program_id(0), tl.cdiv(E, BE), tl.cdiv(tokens, BT), GROUPED)
    e, t = tile_e * BE + tl.arange(0, BE), tile_t * BT + tl.arange(0, BT)
    e_there, t_there = e < E, t < tokens
    w_row, x_row = e.to(tl.int64) * ROW, t.to(tl.int64) * ROW
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
    w_scale = tl.load(w_scale_ptr + e, mask=e_there, other=0.0)
    x_scale = tl.load(x_scale_ptr + t, mask=t_there, other=0.0)
    y = total.to(tl.float32) * (w_scale[:, None] * x_scale[None, :])
    if BIAS:
        y += tl.load(bias_ptr + e, mask=e_there, other=0.0).to(tl.float32)[:, None]
    at = t.to(tl.int64)[None, :] * E + e[:, None]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=e_there[:, None] & t_there[None, :])


@triton.jit
def linear_w4a16(
    x_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    tokens,
    x_stride,
    E: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    BIAS: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BYTES: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """`BYTES` bytes of weights a step: the inputs in their low halves are multiplied first, then those in the high."""
    tile_e, tile_t = tile_of(tl.program_id(0), tl.cdiv(E, BE), tl.cdiv(tokens, BT), GROUPED)
    e, t = tile_e * BE + tl.arange(0, BE), tile_t * BT + tl.arange(0, BT)
    e_there, t_there = e < E, t < tokens
    total = tl.zeros([BE, BT], tl.float32)
    kind = x_ptr.dtype.element_ty
    for first in range(0, GROUPS * HALF, BYTES):
        b = first + tl.arange(0, BYTES)
        group = b // HALF
        low, inside = group * (2 * HALF) + b % HALF, e_there[:, None] & (group < GROUPS)[None, :]
        both = tl.load(w_ptr + e.to(tl.int64)[:, None] * (GROUPS * HALF) + b[None, :], mask=inside, other=0)
        scale = tl.load(scale_ptr + e.to(tl.int64)[:, None] * GROUPS + group[None, :], mask=inside, other=0.0)
        scale = scale.to(tl.float32)
        x_at = x_ptr + t.to(tl.int64)[:, None] * x_stride + low[None, :]
        x_low = tl.load(x_at, mask=t_there[:, None] & (low < K)[None, :], other=0.0)
        x_high = tl.load(x_at + HALF, mask=t_there[:, None] & (low + HALF < K)[None, :], other=0.0)
        w_low = (((both & 15).to(tl.float32) - 8.0) * scale).to(kind)
        w_high = (((both >> 4).to(tl.float32) - 8.0) * scale).to(kind)
        total = tl.dot(w_low, tl.trans(x_low), total, input_precision="ieee")
        total = tl.dot(w_high, tl.trans(x_high), total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias_ptr + e, mask=e_there, other=0.0).to(tl.float32)[:, None]
    at = t.to(tl.int64)[None, :] * E + e[:, None]
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=e_there[:, None] & t_there[None, :])


@triton.jit
def embed_int8(tokens_ptr, w_ptr, scale_ptr, y_ptr, size, ROW: tl.constexpr, PIECE: tl.constexpr):
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    token = tl.load(tokens_ptr + row).to(tl.int64)
    x = tl.load(w_ptr + token * ROW + d, mask=d < size, other=0).to(tl.float32) * tl.load(scale_ptr + token)
    tl.store(y_ptr + row * size + d, x, mask=d < size)


class Int8:
    """Behind `Packing`, for int8."""

    def pack(self, weight_ED: Tensor) -> Tensor:
        whole, scale = int8.whole_and_scale(weight_ED)
        return self.take(whole.to(torch.int8), scale[:, 0])

    def take(self, whole_ED: Tensor, scale_E: Tensor) -> Tensor:
        rows = F.pad(whole_ED, (0, -whole_ED.shape[1] % WIDTH))
        return torch.cat((rows.flatten(), scale_E.float().contiguous().view(torch.int8)))

    def linear(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return _w8a8(x_TD, packed.split([len(packed) - 4 * outputs, 4 * outputs]), torch.int8, outputs, bias_E)

    def embed(self, tokens_T: Tensor, packed: Tensor, inputs: int) -> Tensor:
        row = -(-inputs // WIDTH) * WIDTH
        outputs = len(packed) // (row + 4)
        numbers, scales = packed[: row * outputs], packed[row * outputs :].view(torch.float32)
        y_TD = torch.empty(len(tokens_T), inputs, device=packed.device)
        if len(tokens_T):
            grid = (len(tokens_T), triton.cdiv(inputs, 1024))
            embed_int8[grid](tokens_T.contiguous(), numbers, scales, y_TD, inputs, ROW=row, PIECE=1024)
        return y_TD


class Fp8:
    """Behind `Packing`, for fp8 (e4m3)."""

    def linear(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return _w8a8(x_TD, packed.split([len(packed) - 4 * outputs, 4 * outputs]), fp8.KIND, outputs, bias_E)


def _w8a8(x_TD: Tensor, packed: tuple[Tensor, ...], kind: torch.dtype, outputs: int, bias_E: Tensor | None) -> Tensor:
    """`packed` are the bytes of numbers, and of scales."""
    x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
    tokens, inputs = x_TD.shape
    y_TE = x_TD.new_empty(tokens, outputs)
    if not tokens:
        return y_TE
    numbers, scales = packed[0].view(kind), packed[1].view(torch.float32)
    row, block = len(numbers) // outputs, triton.next_power_of_2(inputs + WIDTH)
    x, x_scale = x_TD.new_empty(tokens, row, dtype=kind), x_TD.new_empty(tokens, dtype=torch.float32)
    is_fp8 = kind is fp8.KIND
    quantize[(tokens,)](
        x_TD, x, x_scale, x_TD.stride(0), SIZE=inputs, ROW=row, BLOCK=block, FP8=is_fp8, num_warps=warps_for(block)
    )
    tile = tile_for(tokens, 1)
    linear_w8a8[_grid(outputs, tokens, tile)](
        x,
        x_scale,
        numbers,
        scales,
        x_TD if bias_E is None else bias_E,
        y_TE,
        tokens,
        E=outputs,
        ROW=row,
        BIAS=bias_E is not None,
        FP8=is_fp8,
        BE=tile.outputs,
        BT=tile.tokens,
        BK=tile.inputs,
        GROUPED=GROUPED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return y_TE


class Int4:
    """Behind `Packing`, for int4. Inputs stay as they are: see `ops.reference.int4.wide_linear`."""

    def pack(self, weight_ED: Tensor) -> Tensor:
        return self._stored(int4.store(weight_ED))

    def take(self, half_ED: Tensor, scale_EG: Tensor) -> Tensor:
        return self._stored(int4.take(half_ED, scale_EG))

    def _stored(self, rows_EGB: Tensor) -> Tensor:
        """From groups with their scales behind them to all numbers and all scales."""
        return torch.cat((rows_EGB[..., :-2].flatten(), rows_EGB[..., -2:].flatten()))

    def linear(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        tokens, inputs = x_TD.shape
        y_TE = x_TD.new_empty(tokens, outputs)
        if not tokens:
            return y_TE
        groups = -(-inputs // GROUP)
        numbers, scales = packed.split([outputs * groups * GROUP // 2, outputs * groups * 2])
        tile = tile_for(tokens, x_TD.element_size())
        linear_w4a16[_grid(outputs, tokens, tile)](
            x_TD,
            numbers,
            scales.view(torch.bfloat16),
            x_TD if bias_E is None else bias_E,
            y_TE,
            tokens,
            x_TD.stride(0),
            E=outputs,
            K=inputs,
            GROUPS=groups,
            BIAS=bias_E is not None,
            BE=tile.outputs,
            BT=tile.tokens,
            BYTES=32,
            GROUPED=GROUPED,
            num_warps=tile.warps,
            num_stages=min(tile.stages, 3),
        )
        return y_TE


def _grid(outputs: int, tokens: int, tile: Any) -> tuple[int]:
    return (triton.cdiv(outputs, tile.outputs) * triton.cdiv(tokens, tile.tokens),)
