"""Reference of paged attention: gather each request's pages and attend in fp32. Slow, and easy to believe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged
from ramify.ops.reference.int8 import from_pool


def gather(pool_PKSC: Tensor, pages: Tensor, length: int, size: int) -> Tensor:
    """The first `length` positions of a page table as float32 [K, length, C], C being `size`."""
    rows = pool_PKSC[pages].transpose(0, 1).flatten(1, 2)[:, :length]
    return from_pool(rows, size, torch.float32)


class ReferenceAttention:
    """`--attention-backend reference`."""

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        return []

    def prepare(self, paged: Paged) -> Paged:
        return paged

    def lasting(self, meta: Any, pages: int) -> None:
        return None

    def refresh(self, own: Any, meta: Any) -> None:
        raise NotImplementedError("nothing of this backend lasts")

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Paged, scale: float) -> Tensor:
        out = torch.empty_like(q_THC)
        for row in range(len(meta.counts)):
            first, count, length = meta.starts[row], meta.counts[row], meta.lengths[row]
            pages = meta.tables[row, : -(-length // k_pool_PKSC.shape[2])]
            k, v = (gather(pool, pages, length, q_THC.shape[2]) for pool in (k_pool_PKSC, v_pool_PKSC))
            q = q_THC[first : first + count].transpose(0, 1)
            out[first : first + count] = attend(q, k, v, scale).transpose(0, 1)
        return out


def attend(q_HQC: Tensor, k_KLC: Tensor, v_KLC: Tensor, scale: float) -> Tensor:
    """Causal attention of the last Q of L positions, query heads in groups over key-value heads, in fp32."""
    heads, queries, size = q_HQC.shape
    kv_heads, length, _ = k_KLC.shape
    q = q_HQC.float().reshape(kv_heads, heads // kv_heads * queries, size)
    scores = (q @ k_KLC.float().transpose(1, 2) * scale).view(kv_heads, -1, queries, length)
    past = torch.arange(length) <= torch.arange(length - queries, length)[:, None]
    weights = scores.masked_fill(~past.to(scores.device), float("-inf")).softmax(-1)
    out = weights.view(kv_heads, -1, length) @ v_KLC.float()
    return out.view(heads, queries, size).to(q_HQC.dtype)
