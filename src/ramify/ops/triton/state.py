"""Layers that keep a state, token after token: see `ops.kernels` for what they compute, `ops.states` for the spans.

A program keeps a piece of one state in registers and takes it through all tokens of its row, so bits do not depend on
how a text is cut. Prompts would be faster as products of blocks, bound to positions: that is left for when it can be
measured.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.reference import state
from ramify.ops.states import Spans, dense_rows
from ramify.ops.triton.rows import LOG2E

MOST_WIDTH = 17  # of a convolution: the inputs that it keeps are a tile of 16
TOKENS = 16  # of a convolution that are computed together
PIECE = 128  # channels, or elements of a state, of a program


@triton.jit
def softplus(x):
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp2(x * LOG2E)))


@triton.jit
def conv(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    pool_ptr,
    starts_ptr,
    from_ptr,
    offsets_ptr,
    ends_ptr,
    to_ptr,
    x_stride,
    channels,
    BEHIND: tl.constexpr,
    BIAS: tl.constexpr,
    TOKENS: tl.constexpr,
    PIECE: tl.constexpr,
):
    """The inputs of a row are the BEHIND kept ones and its tokens. What was kept is read before anything is written."""
    row, e = tl.program_id(0), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    there = e < channels
    start, source = tl.load(starts_ptr + row), tl.load(from_ptr + row)
    first, last = tl.load(offsets_ptr + row), tl.load(offsets_ptr + row + 1)
    end, kept = tl.load(ends_ptr + last - 1), tl.arange(0, 16)
    held = tl.load(
        pool_ptr + (source * BEHIND + kept)[:, None] * channels + e[None, :],
        mask=(kept < BEHIND)[:, None] & there[None, :],
        other=0.0,
    )
    for tile in range(start, end, TOKENS):
        t = tile + tl.arange(0, TOKENS)
        total = tl.zeros([TOKENS, PIECE], tl.float32)
        for w in tl.static_range(BEHIND + 1):
            number = t - start + w  # of the inputs of the row
            inside = (t < end)[:, None] & there[None, :]
            old = tl.load(
                pool_ptr + (source * BEHIND + number)[:, None] * channels + e[None, :],
                mask=inside & (number < BEHIND)[:, None],
                other=0.0,
            )
            new = tl.load(
                x_ptr + (start + number - BEHIND)[:, None] * x_stride + e[None, :],
                mask=inside & (number >= BEHIND)[:, None],
                other=0.0,
            ).to(pool_ptr.dtype.element_ty)
            weight = tl.load(weight_ptr + w * channels + e, mask=there, other=0.0).to(tl.float32)
            total += (old + new).to(tl.float32) * weight[None, :]
        if BIAS:
            total += tl.load(bias_ptr + e, mask=there, other=0.0).to(tl.float32)[None, :]
        y = total / (1.0 + tl.exp2(total * -LOG2E))
        place = y_ptr + t[:, None] * channels + e[None, :]
        tl.store(place, y.to(y_ptr.dtype.element_ty), mask=(t < end)[:, None] & there[None, :])
    tl.debug_barrier()
    for span in range(first, last):
        end, slot = tl.load(ends_ptr + span), tl.load(to_ptr + span)
        for w in tl.static_range(BEHIND):
            number = end - start + w + tl.zeros_like(e)
            old = tl.sum(tl.where(kept[:, None] == number[None, :], held.to(tl.float32), 0.0), 0)
            at = x_ptr + (start + number - BEHIND) * x_stride + e
            new = tl.load(at, mask=there & (number >= BEHIND), other=0.0).to(tl.float32)
            value = tl.where(number < BEHIND, old, new).to(pool_ptr.dtype.element_ty)
            tl.store(pool_ptr + (slot * BEHIND + w) * channels + e, value, mask=there)


@triton.jit
def ssd(
    xbc_ptr,
    dt_ptr,
    decay_ptr,
    bias_ptr,
    skip_ptr,
    y_ptr,
    pool_ptr,
    starts_ptr,
    from_ptr,
    offsets_ptr,
    ends_ptr,
    to_ptr,
    least,
    most,
    dt_stride,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    VALUE: tl.constexpr,
    KEY: tl.constexpr,
    VALUES: tl.constexpr,
    KEYS: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    v, b = tl.program_id(2) * VALUES + tl.arange(0, VALUES), tl.arange(0, KEYS)
    WIDTH: tl.constexpr = HEADS * VALUE + 2 * GROUPS * KEY
    group = head // (HEADS // GROUPS)
    start, source = tl.load(starts_ptr + row), tl.load(from_ptr + row)
    at, inside = v[:, None] * KEY + b[None, :], (v < VALUE)[:, None] & (b < KEY)[None, :]
    matrix = tl.load(pool_ptr + (source * HEADS + head) * VALUE * KEY + at, mask=inside, other=0.0)
    decay, bias, skip = tl.load(decay_ptr + head), tl.load(bias_ptr + head), tl.load(skip_ptr + head)
    for span in range(tl.load(offsets_ptr + row), tl.load(offsets_ptr + row + 1)):
        end, slot = tl.load(ends_ptr + span), tl.load(to_ptr + span)
        for t in range(start, end):
            place = xbc_ptr + t * WIDTH
            x = tl.load(place + head * VALUE + v, mask=v < VALUE, other=0.0).to(tl.float32)
            keys = tl.load(place + HEADS * VALUE + group * KEY + b, mask=b < KEY, other=0.0).to(tl.float32)
            reads = tl.load(place + HEADS * VALUE + (GROUPS + group) * KEY + b, mask=b < KEY, other=0.0).to(tl.float32)
            dt = softplus(tl.load(dt_ptr + t * dt_stride + head).to(tl.float32) + bias)
            dt = tl.minimum(tl.maximum(dt, least), most)
            matrix = matrix * tl.exp2(dt * decay * LOG2E) + (dt * x)[:, None] * keys[None, :]
            y = tl.sum(matrix * reads[None, :], 1) + skip * x
            tl.store(y_ptr + (t * HEADS + head) * VALUE + v, y, mask=v < VALUE)
        tl.store(pool_ptr + (slot * HEADS + head) * VALUE * KEY + at, matrix, mask=inside)
        start = end


@triton.jit
def delta(
    qkv_ptr,
    a_ptr,
    b_ptr,
    decay_ptr,
    bias_ptr,
    y_ptr,
    pool_ptr,
    starts_ptr,
    from_ptr,
    offsets_ptr,
    ends_ptr,
    to_ptr,
    a_stride,
    b_stride,
    scale,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    VALUE: tl.constexpr,
    KEY: tl.constexpr,
    VALUES: tl.constexpr,
    KEYS: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    v, k = tl.program_id(2) * VALUES + tl.arange(0, VALUES), tl.arange(0, KEYS)
    WIDTH: tl.constexpr = HEADS * VALUE + 2 * GROUPS * KEY
    group = head // (HEADS // GROUPS)
    start, source = tl.load(starts_ptr + row), tl.load(from_ptr + row)
    at, inside = k[:, None] * VALUE + v[None, :], (k < KEY)[:, None] & (v < VALUE)[None, :]
    matrix = tl.load(pool_ptr + (source * HEADS + head) * VALUE * KEY + at, mask=inside, other=0.0)
    decay, bias = tl.load(decay_ptr + head), tl.load(bias_ptr + head)
    for span in range(tl.load(offsets_ptr + row), tl.load(offsets_ptr + row + 1)):
        end, slot = tl.load(ends_ptr + span), tl.load(to_ptr + span)
        for t in range(start, end):
            place = qkv_ptr + t * WIDTH
            q = tl.load(place + group * KEY + k, mask=k < KEY, other=0.0).to(tl.float32)
            key = tl.load(place + (GROUPS + group) * KEY + k, mask=k < KEY, other=0.0).to(tl.float32)
            value = tl.load(place + 2 * GROUPS * KEY + head * VALUE + v, mask=v < VALUE, other=0.0).to(tl.float32)
            q = q * tl.rsqrt(tl.sum(q * q, 0) + 1e-6) * scale
            key = key * tl.rsqrt(tl.sum(key * key, 0) + 1e-6)
            step = softplus(tl.load(a_ptr + t * a_stride + head).to(tl.float32) + bias)
            rate = 1.0 / (1.0 + tl.exp2(tl.load(b_ptr + t * b_stride + head).to(tl.float32) * -LOG2E))
            matrix = matrix * tl.exp2(step * decay * LOG2E)
            known = tl.sum(matrix * key[:, None], 0)
            matrix += key[:, None] * ((value - known) * rate)[None, :]
            tl.store(y_ptr + (t * HEADS + head) * VALUE + v, tl.sum(matrix * q[:, None], 0), mask=v < VALUE)
        tl.store(pool_ptr + (slot * HEADS + head) * VALUE * KEY + at, matrix, mask=inside)
        start = end


class States:
    """Behind the signatures of `ops.kernels`."""

    def conv(self, x_TE: Tensor, weight_WE: Tensor, bias_E: Tensor | None, pool_PWE: Tensor, spans: Spans) -> Tensor:
        width, channels = weight_WE.shape
        if width > MOST_WIDTH:
            return state.conv(x_TE, weight_WE, bias_E, pool_PWE, spans)
        x_TE = dense_rows(x_TE)
        y_TE = torch.empty(x_TE.shape, dtype=x_TE.dtype, device=x_TE.device)
        conv[(len(spans.starts_N), triton.cdiv(channels, PIECE))](
            x_TE,
            weight_WE,
            weight_WE if bias_E is None else bias_E,
            y_TE,
            pool_PWE,
            *spans.tensors,
            x_TE.stride(0),
            channels,
            BEHIND=width - 1,
            BIAS=bias_E is not None,
            TOKENS=TOKENS,
            PIECE=PIECE,
        )
        return y_TE

    def ssd(
        self,
        xbc_TE: Tensor,
        dt_TH: Tensor,
        decay_H: Tensor,
        bias_H: Tensor,
        skip_H: Tensor,
        limits: tuple[float, float],
        groups: int,
        pool_PHVB: Tensor,
        spans: Spans,
    ) -> Tensor:
        heads, value, key = pool_PHVB.shape[1:]
        xbc_TE, dt_TH = xbc_TE.contiguous(), dense_rows(dt_TH)
        y_TE = torch.empty(len(xbc_TE), heads * value, device=xbc_TE.device)
        piece = piece_of(value, key)
        ssd[(len(spans.starts_N), heads, triton.cdiv(value, piece))](
            xbc_TE,
            dt_TH,
            decay_H,
            bias_H,
            skip_H,
            y_TE,
            pool_PHVB,
            *spans.tensors,
            *limits,
            dt_TH.stride(0),
            HEADS=heads,
            GROUPS=groups,
            VALUE=value,
            KEY=key,
            VALUES=piece,
            KEYS=triton.next_power_of_2(key),
        )
        return y_TE

    def delta(
        self,
        qkv_TE: Tensor,
        a_TH: Tensor,
        b_TH: Tensor,
        decay_H: Tensor,
        bias_H: Tensor,
        groups: int,
        pool_PHBV: Tensor,
        spans: Spans,
    ) -> Tensor:
        heads, key, value = pool_PHBV.shape[1:]
        qkv_TE, a_TH, b_TH = qkv_TE.contiguous(), dense_rows(a_TH), dense_rows(b_TH)
        y_TE = torch.empty(len(qkv_TE), heads * value, device=qkv_TE.device)
        piece = piece_of(value, key)
        delta[(len(spans.starts_N), heads, triton.cdiv(value, piece))](
            qkv_TE,
            a_TH,
            b_TH,
            decay_H,
            bias_H,
            y_TE,
            pool_PHBV,
            *spans.tensors,
            a_TH.stride(0),
            b_TH.stride(0),
            key**-0.5,
            HEADS=heads,
            GROUPS=groups,
            VALUE=value,
            KEY=key,
            VALUES=piece,
            KEYS=triton.next_power_of_2(key),
        )
        return y_TE


def piece_of(value: int, key: int) -> int:
    """Values of a program: 32 elements of the matrix for each of 128 threads."""
    return min(max(4096 // triton.next_power_of_2(key), 1), triton.next_power_of_2(value))
