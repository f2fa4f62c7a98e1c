"""Norms, activations and rows of embeddings: a program for each row, or for a piece of one.

What is summed up is summed in an order that depends on the size of a row alone. Where the reference rounds to the type
of the model between two steps, so do these.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3, "sigmoid": 4, "clamped_swiglu": 5}
PIECE = 1024  # elements of a program where nothing is summed up

SILU, GELU_TANH, GELU, RELU, SIGMOID, CLAMPED_SWIGLU = (tl.constexpr(kind) for kind in range(6))
LOG2E = tl.constexpr(1.4426950408889634)
SMALLEST = tl.constexpr(1e-30)  # as in `ops.reference.int8`
ROUND = tl.constexpr(12582912.0)  # added and taken away again it rounds what is small to whole numbers, ties to even


@triton.jit
def row_at(x_ptr, residual_ptr, total_ptr, at, d, SIZE: tl.constexpr, ADDED: tl.constexpr):
    """A row in float32; with a residual `ADDED` it is their sum, rounded, which is stored too."""
    x = tl.load(x_ptr + at + d, mask=d < SIZE, other=0.0).to(tl.float32)
    if ADDED:
        x += tl.load(residual_ptr + at + d, mask=d < SIZE, other=0.0).to(tl.float32)
        total = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at + d, total, mask=d < SIZE)
        x = total.to(tl.float32)
    return x


@triton.jit
def rms_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    eps,
    offset,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDED: tl.constexpr,
    OFFSET: tl.constexpr,
):
    at, d = tl.program_id(0).to(tl.int64) * SIZE, tl.arange(0, BLOCK)
    kind = y_ptr.dtype.element_ty
    x = row_at(x_ptr, residual_ptr, total_ptr, at, d, SIZE, ADDED)
    weight = tl.load(weight_ptr + d, mask=d < SIZE, other=0.0).to(tl.float32)
    y = scaled_rows(x, weight, eps, offset, SIZE, OFFSET, kind)
    tl.store(y_ptr + at + d, y.to(kind), mask=d < SIZE)


@triton.jit
def scaled_rows(x, weight, eps, offset, SIZE: tl.constexpr, OFFSET: tl.constexpr, kind: tl.constexpr):
    """The norm of float32 over the last dimension; with an offset to the weight it is scaled in float32, as in
    `ops.reference.basic.rms_norm`.
    """
    x = x * tl.expand_dims(tl.rsqrt(tl.sum(x * x, -1) / SIZE + eps), -1)
    if OFFSET:
        return x * (weight + offset)
    return x.to(kind).to(tl.float32) * weight


@triton.jit
def layer_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    total_ptr,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDED: tl.constexpr,
    BIAS: tl.constexpr,
):
    at, d = tl.program_id(0).to(tl.int64) * SIZE, tl.arange(0, BLOCK)
    kind = y_ptr.dtype.element_ty
    x = row_at(x_ptr, residual_ptr, total_ptr, at, d, SIZE, ADDED)
    x = tl.where(d < SIZE, x - tl.sum(x, 0) / SIZE, 0.0)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / SIZE + eps) * tl.load(weight_ptr + d, mask=d < SIZE, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias_ptr + d, mask=d < SIZE, other=0.0).to(tl.float32)
    tl.store(y_ptr + at + d, y.to(kind), mask=d < SIZE)


@triton.jit
def whole_and_scale(x):
    """Rows [.., C] of float32 as whole numbers, still in float32, and a scale each: see `ops.reference.int8`."""
    number, scale = number_and_scale(x, 127.0)
    return number + ROUND - ROUND, scale


@triton.jit
def number_and_scale(x, LARGEST: tl.constexpr):
    """Rows [.., C] of float32 scaled to reach `LARGEST`, and what each was divided by."""
    most = tl.max(tl.abs(x), -1)
    finite = tl.sum(x * 0.0, -1) == 0.0  # NaN where anything is not
    large = most >= SMALLEST
    scale = tl.where(large, tl.div_rn(most, tl.zeros_like(most) + LARGEST), 0.0)
    inverse = tl.where(large, tl.div_rn(tl.zeros_like(most) + LARGEST, most), 0.0)
    number = tl.where(tl.expand_dims(finite, -1), x * tl.expand_dims(inverse, -1), 0.0)
    return number, tl.where(finite, scale, float("nan"))


@triton.jit
def tanh(x):
    """To about 1e-7, whatever x."""
    return 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2E)) + 1.0)


@triton.jit
def activated(x, KIND: tl.constexpr):
    """Of float32. NaN stays NaN."""
    if KIND == SILU:
        y = x / (1.0 + tl.exp2(x * -LOG2E))
    elif KIND == GELU_TANH:
        y = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif KIND == GELU:
        y = 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))
    elif KIND == RELU:
        y = tl.where(x < 0.0, 0.0, x)
    else:
        y = 1.0 / (1.0 + tl.exp2(x * -LOG2E))
    return y


@triton.jit
def gated_pair(gate, up, KIND: tl.constexpr, kind: tl.constexpr):
    """The activation of the first times the second, both float32, rounded to `kind` in between."""
    if KIND == CLAMPED_SWIGLU:
        gate = tl.where(gate > 7.0, 7.0, gate)
        up = tl.where(up > 7.0, 7.0, tl.where(up < -7.0, -7.0, up))
        y = (up + 1.0) * (gate / (1.0 + tl.exp2(gate * (-1.702 * LOG2E))))
    else:
        y = activated(gate, KIND).to(kind).to(tl.float32) * up
    return y


@triton.jit
def gated(x_ptr, y_ptr, size, KIND: tl.constexpr, PIECE: tl.constexpr):
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    gate = tl.load(x_ptr + 2 * row * size + d, mask=d < size, other=0.0)
    up = tl.load(x_ptr + (2 * row + 1) * size + d, mask=d < size, other=0.0)
    y = gated_pair(gate.to(tl.float32), up.to(tl.float32), KIND, gate.dtype)
    tl.store(y_ptr + row * size + d, y.to(gate.dtype), mask=d < size)


@triton.jit
def activate(x_ptr, y_ptr, count, KIND: tl.constexpr, PIECE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * PIECE + tl.arange(0, PIECE)
    x = tl.load(x_ptr + at, mask=at < count, other=0.0)
    tl.store(y_ptr + at, activated(x.to(tl.float32), KIND).to(x.dtype), mask=at < count)


@triton.jit
def softcap(x_ptr, y_ptr, count, cap, PIECE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * PIECE + tl.arange(0, PIECE)
    x = tl.load(x_ptr + at, mask=at < count, other=0.0)
    tl.store(y_ptr + at, cap * tanh(x / cap), mask=at < count)


@triton.jit
def embed(tokens_ptr, weight_ptr, y_ptr, size, PIECE: tl.constexpr):
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    token = tl.load(tokens_ptr + row).to(tl.int64)
    x = tl.load(weight_ptr + token * size + d, mask=d < size, other=0.0)
    tl.store(y_ptr + row * size + d, x, mask=d < size)


class Rows:
    """Behind the signatures of `ops.kernels`."""

    def embed(self, tokens_T: Tensor, weight_VD: Tensor) -> Tensor:
        tokens_T = tokens_T.contiguous()
        size = weight_VD.shape[1]
        y_TD = weight_VD.new_empty(len(tokens_T), size)
        if len(tokens_T):
            embed[(len(tokens_T), triton.cdiv(size, PIECE))](tokens_T, weight_VD, y_TD, size, PIECE=PIECE)
        return y_TD

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        x_TD = x_TD.contiguous()
        y_TD = torch.empty_like(x_TD)
        self._rms_norm(x_TD, None, weight_D, y_TD, None, eps, offset)
        return y_TD

    def add_rms_norm(
        self, x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        x_TD, residual_TD = x_TD.contiguous(), residual_TD.contiguous()
        y_TD, total_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        self._rms_norm(x_TD, residual_TD, weight_D, y_TD, total_TD, eps, offset)
        return y_TD, total_TD

    def _rms_norm(
        self,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        y: Tensor,
        total: Tensor | None,
        eps: float,
        offset: float,
    ) -> None:
        size = x.shape[-1]
        if not x.numel():
            return
        block = triton.next_power_of_2(size)
        rms_norm[(x.numel() // size,)](
            x,
            x if residual is None else residual,
            weight,
            y,
            y if total is None else total,
            eps,
            offset,
            SIZE=size,
            BLOCK=block,
            ADDED=residual is not None,
            OFFSET=offset != 0.0,
            num_warps=warps_for(block),
        )

    def layer_norm(self, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float) -> Tensor:
        x_TD = x_TD.contiguous()
        y_TD = torch.empty_like(x_TD)
        self._layer_norm(x_TD, None, weight_D, bias_D, y_TD, None, eps)
        return y_TD

    def add_layer_norm(
        self, x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        x_TD, residual_TD = x_TD.contiguous(), residual_TD.contiguous()
        y_TD, total_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        self._layer_norm(x_TD, residual_TD, weight_D, bias_D, y_TD, total_TD, eps)
        return y_TD, total_TD

    def _layer_norm(
        self,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        total: Tensor | None,
        eps: float,
    ) -> None:
        size = x.shape[-1]
        if not x.numel():
            return
        block = triton.next_power_of_2(size)
        layer_norm[(x.numel() // size,)](
            x,
            x if residual is None else residual,
            weight,
            weight if bias is None else bias,
            y,
            y if total is None else total,
            eps,
            SIZE=size,
            BLOCK=block,
            ADDED=residual is not None,
            BIAS=bias is not None,
            num_warps=warps_for(block),
        )

    def gated(self, gate_up_TE: Tensor, activation: str) -> Tensor:
        gate_up_TE = gate_up_TE.contiguous()
        rows, size = gate_up_TE.shape[0], gate_up_TE.shape[1] // 2
        y = gate_up_TE.new_empty(rows, size)
        if y.numel():
            grid = (rows, triton.cdiv(size, PIECE))
            gated[grid](gate_up_TE, y, size, KIND=ACTIVATIONS[activation], PIECE=PIECE)
        return y

    def activate(self, x_TE: Tensor, activation: str) -> Tensor:
        x_TE = x_TE.contiguous()
        y = torch.empty_like(x_TE)
        if y.numel():
            grid = (triton.cdiv(y.numel(), PIECE),)
            activate[grid](x_TE, y, y.numel(), KIND=ACTIVATIONS[activation], PIECE=PIECE)
        return y

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        if y.numel():
            softcap[(triton.cdiv(y.numel(), PIECE),)](x, y, y.numel(), cap, PIECE=PIECE)
        return y


def warps_for(elements: int) -> int:
    """Of a program that holds a row: eight or more elements for each thread, by the size of the row alone."""
    return min(max(elements // 256, 1), 16)
