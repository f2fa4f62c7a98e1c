"""Between the fused projection and attention: norms per head, rotation, and keys and values into their pages.

A program takes a few heads of one token. Of every element it loads its partner in the rotation too, from the cache that
the first load filled.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.triton.pages import as_bytes, held, launched
from ramify.ops.triton.rows import scaled_rows, whole_and_scale

LINES = 8  # heads of a program


@triton.jit
def turned(
    x_ptr,
    at,
    there,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    eps,
    offset,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORMED: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """Heads [LINES, BLOCK] at `at`, normed where asked and rotated, in float32. `weight_ptr` is that of each line."""
    c = tl.arange(0, BLOCK)
    turning = c < 2 * PAIRS
    if INTERLEAVED:
        partner, pair, first = c ^ 1, c // 2, c % 2 == 0
    else:
        partner, pair, first = tl.where(c < PAIRS, c + PAIRS, c - PAIRS), tl.where(c < PAIRS, c, c - PAIRS), c < PAIRS
    partner = tl.where(turning, partner, c)
    inside = there[:, None] & (c < SIZE)[None, :]
    kind = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + at[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
    y = tl.load(x_ptr + at[:, None] + partner[None, :], mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        weight = tl.load(weight_ptr[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
        theirs = tl.load(weight_ptr[:, None] + partner[None, :], mask=inside, other=0.0).to(tl.float32)
        x = scaled_rows(x, weight, eps, offset, SIZE, OFFSET, kind).to(kind).to(tl.float32)
        y = scaled_rows(y, theirs, eps, offset, SIZE, OFFSET, kind).to(kind).to(tl.float32)
    cos = tl.load(cos_ptr + pair, mask=turning, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + pair, mask=turning, other=0.0).to(tl.float32)
    sin = tl.where(first, -sin, sin)
    return x * cos[None, :] + y * sin[None, :]


@triton.jit
def keep(
    x,
    there,
    pool_ptr,
    scales_ptr,
    place,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Heads [LINES, BLOCK] of float32 into rows of a pool that begin at `place`: see `ops.reference.int8` for int8, and
    `pages` for e4m3.
    """
    c = tl.arange(0, BLOCK)
    if SCALED:
        whole, scale = whole_and_scale(x)
        mask = there[:, None] & (c < (SIZE + 3) // 4 * 4)[None, :]
        tl.store(pool_ptr + place[:, None] + c[None, :], whole.to(tl.int8), mask=mask)
        tl.store(scales_ptr + place // 4, scale, mask=there)
    else:
        kind = pool_ptr.dtype.element_ty
        if kind == tl.uint8:
            x = as_bytes(x)
        elif kind == tl.float8e4nv:
            x = held(x)
        tl.store(pool_ptr + place[:, None] + c[None, :], x.to(kind), mask=there[:, None] & (c < SIZE)[None, :])


@triton.jit
def qkv_rope_store(
    qkv_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    k_pool_ptr,
    v_pool_ptr,
    k_scales_ptr,
    v_scales_ptr,
    write_at_ptr,
    q_ptr,
    eps,
    offset,
    k_page,
    k_head,
    k_slot,
    v_page,
    v_head,
    v_slot,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    PAGE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORMED: tl.constexpr,
    OFFSET: tl.constexpr,
    SCALED: tl.constexpr,
    LINES: tl.constexpr,
):
    """Heads of queries, then of keys, then of values."""
    token, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * LINES
    head = first + tl.arange(0, LINES)
    c = tl.arange(0, BLOCK)
    is_q, is_v = head < HEADS, (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    at = (token * (HEADS + 2 * KV_HEADS) + head) * SIZE
    slot = tl.load(write_at_ptr + token)
    page, slot = slot // PAGE, slot % PAGE
    if first < HEADS + KV_HEADS:
        x = turned(
            qkv_ptr,
            at,
            is_q | is_k,
            tl.where(is_q, q_norm_ptr, k_norm_ptr),
            cos_ptr + token * PAIRS,
            sin_ptr + token * PAIRS,
            eps,
            offset,
            SIZE,
            BLOCK,
            PAIRS,
            INTERLEAVED,
            NORMED,
            OFFSET,
        )
        kind = q_ptr.dtype.element_ty
        x = x.to(kind)
        q_at = (token * HEADS + head) * SIZE
        tl.store(q_ptr + q_at[:, None] + c[None, :], x, mask=is_q[:, None] & (c < SIZE)[None, :])
        place = page * k_page + (head - HEADS) * k_head + slot * k_slot
        keep(x.to(tl.float32), is_k, k_pool_ptr, k_scales_ptr, place, SIZE, BLOCK, SCALED)
    if first + LINES > HEADS + KV_HEADS:
        v = tl.load(qkv_ptr + at[:, None] + c[None, :], mask=is_v[:, None] & (c < SIZE)[None, :], other=0.0)
        place = page * v_page + (head - HEADS - KV_HEADS) * v_head + slot * v_slot
        keep(v.to(tl.float32), is_v, v_pool_ptr, v_scales_ptr, place, SIZE, BLOCK, SCALED)


@triton.jit
def rotate(
    x_ptr,
    y_ptr,
    cos_ptr,
    sin_ptr,
    x_token,
    x_head,
    heads,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    LINES: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1) * LINES + tl.arange(0, LINES)
    there, c = head < heads, tl.arange(0, BLOCK)
    x = turned(
        x_ptr,
        token * x_token + head * x_head,
        there,
        x_ptr,
        cos_ptr + token * PAIRS,
        sin_ptr + token * PAIRS,
        0.0,
        0.0,
        SIZE,
        BLOCK,
        PAIRS,
        INTERLEAVED,
        False,
        False,
    )
    at = (token * heads + head)[:, None] * SIZE + c[None, :]
    tl.store(y_ptr + at, x.to(y_ptr.dtype.element_ty), mask=there[:, None] & (c < SIZE)[None, :])


@triton.jit
def store(
    x_ptr,
    pool_ptr,
    scales_ptr,
    write_at_ptr,
    pool_page,
    pool_head,
    pool_slot,
    heads,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    SCALED: tl.constexpr,
    LINES: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1) * LINES + tl.arange(0, LINES)
    there, c = head < heads, tl.arange(0, BLOCK)
    at = (token * heads + head)[:, None] * SIZE + c[None, :]
    x = tl.load(x_ptr + at, mask=there[:, None] & (c < SIZE)[None, :], other=0.0)
    slot = tl.load(write_at_ptr + token)
    place = slot // PAGE * pool_page + head * pool_head + slot % PAGE * pool_slot
    keep(x.to(tl.float32), there, pool_ptr, scales_ptr, place, SIZE, BLOCK, SCALED)


class Rope:
    """Behind the signatures of `ops.kernels`."""

    def qkv_rope_store(
        self,
        qkv_TE: Tensor,
        heads: int,
        q_norm_C: Tensor | None,
        k_norm_C: Tensor | None,
        eps: float,
        cos_TR: Tensor,
        sin_TR: Tensor,
        k_pool_PKSC: Tensor,
        v_pool_PKSC: Tensor,
        write_at_T: Tensor,
        interleaved: bool = False,
        offset: float = 0.0,
    ) -> Tensor:
        qkv_TE, cos_TR, sin_TR = qkv_TE.contiguous(), cos_TR.contiguous(), sin_TR.contiguous()
        _, kv_heads, page, _ = k_pool_PKSC.shape
        size = qkv_TE.shape[1] // (heads + 2 * kv_heads)
        q_THC = qkv_TE.new_empty(len(qkv_TE), heads, size)
        if not len(qkv_TE):
            return q_THC
        normed = q_norm_C is not None and k_norm_C is not None
        qkv_rope_store[(len(qkv_TE), triton.cdiv(heads + 2 * kv_heads, LINES))](
            qkv_TE,
            q_norm_C if normed else qkv_TE,
            k_norm_C if normed else qkv_TE,
            cos_TR,
            sin_TR,
            launched(k_pool_PKSC),
            launched(v_pool_PKSC),
            scales(k_pool_PKSC),
            scales(v_pool_PKSC),
            write_at_T,
            q_THC,
            eps,
            offset,
            *k_pool_PKSC.stride()[:3],
            *v_pool_PKSC.stride()[:3],
            HEADS=heads,
            KV_HEADS=kv_heads,
            SIZE=size,
            BLOCK=block_of(size),
            PAIRS=cos_TR.shape[1],
            PAGE=page,
            INTERLEAVED=interleaved,
            NORMED=normed,
            OFFSET=offset != 0.0,
            SCALED=k_pool_PKSC.dtype is torch.int8,
            LINES=LINES,
        )
        return q_THC

    def rotate(self, x_THC: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False) -> Tensor:
        if x_THC.stride(2) != 1:
            x_THC = x_THC.contiguous()
        tokens, heads, size = x_THC.shape
        y_THC = torch.empty(x_THC.shape, dtype=x_THC.dtype, device=x_THC.device)
        if not y_THC.numel():
            return y_THC
        rotate[(tokens, triton.cdiv(heads, LINES))](
            x_THC,
            y_THC,
            cos_TR.contiguous(),
            sin_TR.contiguous(),
            *x_THC.stride()[:2],
            heads,
            SIZE=size,
            BLOCK=block_of(size),
            PAIRS=cos_TR.shape[1],
            INTERLEAVED=interleaved,
            LINES=LINES,
        )
        return y_THC

    def store(self, x_TKC: Tensor, pool_PKSC: Tensor, write_at_T: Tensor) -> None:
        x_TKC = x_TKC.contiguous()
        tokens, heads, size = x_TKC.shape
        if not x_TKC.numel():
            return
        store[(tokens, triton.cdiv(heads, LINES))](
            x_TKC,
            launched(pool_PKSC),
            scales(pool_PKSC),
            write_at_T,
            *pool_PKSC.stride()[:3],
            heads,
            SIZE=size,
            BLOCK=block_of(size),
            PAGE=pool_PKSC.shape[2],
            SCALED=pool_PKSC.dtype is torch.int8,
            LINES=LINES,
        )

    def rotate_qk(self, qkv_TE: Tensor, heads: int, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        parts_THC = qkv_TE.unflatten(-1, (3 * heads, -1))
        turned_THC = self.rotate(parts_THC[:, : 2 * heads], cos_TR, sin_TR)
        return torch.cat((turned_THC, parts_THC[:, 2 * heads :]), dim=1).flatten(1)


def block_of(size: int) -> int:
    """Elements that are loaded of a head: those of int8 that pad it to a multiple of four too."""
    return triton.next_power_of_2(max(size, 4))


def scales(pool_PKSC: Tensor) -> Tensor:
    """The scale of the first row of an int8 pool, from which those of others are counted in floats; see
    `ops.reference.int8`.
    """
    return pool_PKSC.view(torch.float32)[..., -1:] if pool_PKSC.dtype is torch.int8 else launched(pool_PKSC)
