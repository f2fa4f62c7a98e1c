"""Attention of the compiled library: walks the pages where they stand, for prompts and single tokens alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule, value_size
from ramify.ops.cpu.compiled import POOLS
from ramify.ops.cpu.record import Functions

WIDTH = 16  # floats in the widest register: heads have to be a multiple of it
LARGEST = 1024


@dataclass(frozen=True)
class Rows:
    """A step's rows as the library wants them."""

    tables: Tensor
    starts: Tensor
    counts: Tensor
    lengths: Tensor


class PagedAttention:
    """`--attention-backend cpu`."""

    def __init__(self, library: Functions | None) -> None:
        self._library = library

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        reasons = []
        if self._library is None:
            reasons.append("the compiled kernels are not installed")
        if shape.dtype not in ("float32", "bfloat16"):
            reasons.append(f"it computes in float32 and bfloat16, not in {shape.dtype}")
        if shape.trees:
            reasons.append("it knows no trees of drafts")
        for size in {shape.head_dim, shape.value_dim or shape.head_dim}:
            if size % WIDTH or size > LARGEST:
                reasons.append(f"heads have {size} elements, not a multiple of {WIDTH} up to {LARGEST}")
        return reasons

    def prepare(self, paged: Paged) -> Rows:
        if paged.trees_T is not None:
            raise NotImplementedError("the compiled kernels know no trees of drafts")
        starts, counts, lengths = torch.tensor([paged.starts, paged.counts, paged.lengths], dtype=torch.int32)
        return Rows(paged.tables.to(torch.int32).contiguous(), starts, counts, lengths)

    def lasting(self, meta: Rows, pages: int) -> Rows:
        tables = torch.zeros(len(meta.tables), pages, dtype=torch.int32)
        tables[:, : meta.tables.shape[1]] = meta.tables
        return Rows(tables, meta.starts.clone(), meta.counts.clone(), meta.lengths.clone())

    def refresh(self, own: Rows, meta: Rows) -> None:
        own.tables[:, : meta.tables.shape[1]] = meta.tables
        own.starts.copy_(meta.starts)
        own.counts.copy_(meta.counts)
        own.lengths.copy_(meta.lengths)

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Rows, rule: Rule) -> Tensor:
        assert self._library is not None
        q_THC = q_THC.contiguous()
        _, kv_heads, page_size, _ = k_pool_PKSC.shape
        size, wide = q_THC.shape[2], value_size(q_THC, v_pool_PKSC)
        out_THC = torch.empty(*q_THC.shape[:2], wide, dtype=q_THC.dtype)
        self._library.ramify_attention(
            int(q_THC.dtype is torch.bfloat16),
            POOLS[k_pool_PKSC.dtype],
            q_THC.data_ptr(),
            k_pool_PKSC.data_ptr(),
            v_pool_PKSC.data_ptr(),
            None if rule.sinks_H is None else rule.sinks_H.data_ptr(),
            out_THC.data_ptr(),
            meta.tables.data_ptr(),
            meta.starts.data_ptr(),
            meta.counts.data_ptr(),
            meta.lengths.data_ptr(),
            rule.scale,
            rule.softcap or 0.0,
            rule.window or 0,
            rule.chunk or 0,
            len(meta.starts),
            meta.tables.stride(0),
            q_THC.shape[1],
            kv_heads,
            size,
            wide,
            k_pool_PKSC.stride(2),
            v_pool_PKSC.stride(2),
            page_size,
        )
        return out_THC
