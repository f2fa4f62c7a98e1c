"""Attention in both directions within texts that stand one behind the other, as encoders need it.

A program has a tile of queries of one text and one head, and walks over the keys of that text, tile by tile from the
first that any of its queries may see. Tiles are counted from where a text begins, so that its bits are its own.
"""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.triton.rows import LOG2E
from ramify.ops.triton.tiles import group_of


@triton.jit
def columns(ptr, t, there, c, stride, SIZE: tl.constexpr):
    """Rows t of a part of the fused projection, [tokens, SIZE]."""
    at = ptr + t.to(tl.int64)[:, None] * stride + c[None, :]
    return tl.load(at, mask=there[:, None] & (c < SIZE)[None, :], other=0.0)


@triton.jit
def attend_texts(
    qkv_ptr,
    out_ptr,
    ends_ptr,
    texts,
    scale,
    WINDOW: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    BC: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    text, first, end = group_of(tl.program_id(0), ends_ptr, texts, BLOCK, BQ)
    if text == texts:
        return
    WIDTH: tl.constexpr = HEADS * SIZE
    begin = tl.load(ends_ptr + text - 1, mask=text > 0, other=0).to(tl.int32)
    t, c = first + tl.arange(0, BQ), tl.arange(0, BC)
    own = qkv_ptr + tl.program_id(1) * SIZE
    q = columns(own, t, t < end, c, 3 * WIDTH, SIZE)
    most, total = tl.full([BQ], float("-inf"), tl.float32), tl.zeros([BQ], tl.float32)
    out = tl.zeros([BQ, BC], tl.float32)
    low, high = begin, end
    if WINDOW:
        low = begin + tl.maximum(first - begin - WINDOW, 0) // BK * BK
        high = tl.minimum(end, first + BQ + WINDOW)
    for k_first in range(low, high, BK):
        at = k_first + tl.arange(0, BK)
        k = columns(own + WIDTH, at, at < end, c, 3 * WIDTH, SIZE)
        v = columns(own + 2 * WIDTH, at, at < end, c, 3 * WIDTH, SIZE)
        seen = (at < end)[None, :]
        if WINDOW:
            seen = seen & (tl.abs(t[:, None] - at[None, :]) <= WINDOW)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        score = tl.where(seen, score, float("-inf"))
        new = tl.maximum(most, tl.max(score, 1))
        base = tl.where(new == float("-inf"), 0.0, new)  # of a query that has seen nothing yet
        weight, kept = tl.exp2(score - base[:, None]), tl.exp2(most - base)
        total = total * kept + tl.sum(weight, 1)
        out = tl.dot(weight.to(v.dtype), v, out * kept[:, None], input_precision="ieee")
        most = new
    place = out_ptr + t.to(tl.int64)[:, None] * WIDTH + tl.program_id(1) * SIZE + c[None, :]
    tl.store(place, (out / total[:, None]).to(out_ptr.dtype.element_ty), mask=(t < end)[:, None] & (c < SIZE)[None, :])


class Texts:
    """Behind the signature of `ops.kernels`."""

    def attend_texts(
        self, qkv_TE: Tensor, heads: int, starts_N: Tensor, counts_N: Tensor, window: int, scale: float
    ) -> Tensor:
        qkv_TE = qkv_TE.contiguous()
        tokens, size, texts = len(qkv_TE), qkv_TE.shape[1] // (3 * heads), len(starts_N)
        out_TD = qkv_TE.new_empty(tokens, heads * size)
        if not tokens:
            return out_TD
        queries, keys = tile_of_texts(size, qkv_TE.element_size())
        tiles = min(triton.cdiv(tokens, queries) + texts, tokens)
        attend_texts[(tiles, heads)](
            qkv_TE,
            out_TD,
            starts_N + counts_N,
            texts,
            scale,
            WINDOW=window,
            HEADS=heads,
            SIZE=size,
            BLOCK=triton.next_power_of_2(texts),
            BC=max(triton.next_power_of_2(size), 16),
            BQ=queries,
            BK=keys,
            num_warps=4,
            num_stages=2,
        )
        return out_TD


def tile_of_texts(size: int, element: int) -> tuple[int, int]:
    """Queries and keys of a tile, by the size of a head and of its numbers alone: the bits depend on it."""
    return 64, 32 if size * element > 256 else 64
