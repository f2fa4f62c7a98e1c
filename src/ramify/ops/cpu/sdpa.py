"""Paged attention from torch's fused SDPA over pages gathered into one tensor: runs everywhere without a compiler.

Query heads that share a key-value head become more queries of that head, so K and V are never repeated. Rows of one
query are padded and attended together while the gathered keys stay small; everything else goes row by row, long
chunks in blocks of queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule, value_size
from ramify.ops.reference.attention import visible
from ramify.ops.reference.int8 import from_pool

GATHER_TOGETHER = 4096  # key positions of a group of rows that are attended together
QUERY_BLOCK = 256


@dataclass(frozen=True)
class _Group:
    """Rows of one query each. Some are shorter than `length`."""

    queries: Tensor
    tables: Tensor
    length: int
    lengths: Tensor

    def mask(self, rule: Rule) -> Tensor | None:
        """What each of them sees, [rows, 1, 1, length]; None where that is everything."""
        keys = torch.arange(self.length)
        seen = keys < self.lengths[:, None]
        if rule.window is not None:
            seen &= keys >= self.lengths[:, None] - rule.window
        if rule.chunk is not None:
            seen &= keys >= (self.lengths[:, None] - 1) // rule.chunk * rule.chunk
        return None if bool(seen.all()) else seen[:, None, None, :]


@dataclass(frozen=True)
class _Chunk:
    """One row of many queries, whose last `count` of `length` positions are its own."""

    start: int
    count: int
    length: int
    pages: Tensor
    tree: Tensor | None


class SdpaAttention:
    """`--attention-backend torch_native`."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        reasons = []
        if shape.softcap:
            reasons.append("it does not hold scores below a cap")
        if shape.sinks:
            reasons.append("it knows no attention sinks")
        return reasons

    def prepare(self, paged: Paged) -> list[_Group | _Chunk]:
        single = [row for row, count in enumerate(paged.counts) if count == 1]
        single.sort(key=paged.lengths.__getitem__)
        work: list[_Group | _Chunk] = []
        while single:
            take = self._how_many(single, paged.lengths)
            work.append(self._group(paged, single[-take:]))
            del single[-take:]
        for row, count in enumerate(paged.counts):
            if count > 1:
                pages = paged.tables[row, : self._pages(paged.lengths[row])]
                start = paged.starts[row]
                tree = None if paged.trees_T is None else paged.trees_T[start : start + count]
                work.append(_Chunk(start, count, paged.lengths[row], pages, tree))
        return work

    def _pages(self, length: int) -> int:
        return -(-length // self.page_size)

    def _how_many(self, rows: list[int], lengths: list[int]) -> int:
        """Of rows sorted by length, how many of the longest are attended together."""
        return min(max(GATHER_TOGETHER // (self._pages(lengths[rows[-1]]) * self.page_size), 1), len(rows))

    def _group(self, paged: Paged, rows: list[int]) -> _Group:
        longest = paged.lengths[rows[-1]]
        tables = paged.tables[rows, : self._pages(longest)].long()
        lengths = [paged.lengths[row] for row in rows]
        if lengths[0] < longest:
            tables = tables.masked_fill(
                torch.arange(tables.shape[1]) >= torch.tensor(_pages(lengths, self.page_size))[:, None], 0
            )
        return _Group(torch.tensor([paged.starts[row] for row in rows]), tables, longest, torch.tensor(lengths))

    def lasting(self, meta: Any, pages: int) -> None:
        return None

    def refresh(self, own: Any, meta: Any) -> None:
        raise NotImplementedError("nothing of this backend lasts")

    def forward(
        self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: list[_Group | _Chunk], rule: Rule
    ) -> Tensor:
        out = q_THC.new_empty(*q_THC.shape[:2], value_size(q_THC, v_pool_PKSC))
        for part in meta:
            if isinstance(part, _Group):
                self._attend_group(q_THC, k_pool_PKSC, v_pool_PKSC, part, rule, out)
            else:
                self._attend_chunk(q_THC, k_pool_PKSC, v_pool_PKSC, part, rule, out)
        return out

    def _attend_group(
        self, q_THC: Tensor, k_pool: Tensor, v_pool: Tensor, group: _Group, rule: Rule, out: Tensor
    ) -> None:
        rows, kv_heads, size = len(group.queries), k_pool.shape[1], q_THC.shape[2]
        q = q_THC[group.queries].view(rows, kv_heads, -1, size)
        k, v = (_gather(pool, group.tables, group.length, q) for pool in (k_pool, v_pool))
        mask = group.mask(rule)
        if mask is not None and (rule.window is not None or rule.chunk is not None):
            k, v = (x.masked_fill(~mask.transpose(2, 3), 0) for x in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=rule.scale)
        out[group.queries] = attended.reshape(rows, -1, v.shape[3])

    def _attend_chunk(
        self, q_THC: Tensor, k_pool: Tensor, v_pool: Tensor, chunk: _Chunk, rule: Rule, out: Tensor
    ) -> None:
        heads, size = q_THC.shape[1:]
        kv_heads = k_pool.shape[1]
        group = heads // kv_heads
        k, v = (_gather(pool, chunk.pages[None].long(), chunk.length, q_THC) for pool in (k_pool, v_pool))
        for first in range(0, chunk.count, QUERY_BLOCK):
            count = min(QUERY_BLOCK, chunk.count - first)
            seen = chunk.length - chunk.count + first + count  # positions up to the last query of the block
            past = visible(count, seen, rule, None if chunk.tree is None else chunk.tree[first : first + count])
            keys = slice(rule.first_key(seen - count), seen)
            at = slice(chunk.start + first, chunk.start + first + count)
            q = q_THC[at].transpose(0, 1).reshape(1, kv_heads, group * count, size)
            attended = F.scaled_dot_product_attention(
                q, k[:, :, keys], v[:, :, keys], attn_mask=past[:, keys].repeat(group, 1), scale=rule.scale
            )
            out[at] = attended.view(heads, count, -1).transpose(0, 1)


def _pages(lengths: list[int], page_size: int) -> list[int]:
    return [-(-length // page_size) for length in lengths]


def _gather(pool_PKSC: Tensor, tables: Tensor, length: int, like: Tensor) -> Tensor:
    """Pages of several rows as [rows, K, length, C], of the type and head size of the queries `like`."""
    rows = pool_PKSC[tables].transpose(1, 2).flatten(2, 3)[:, :, :length]
    return from_pool(rows, like.shape[-1], like.dtype)
