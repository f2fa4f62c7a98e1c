"""Reference of paged attention: gather each request's pages and attend in fp32. Slow, and easy to believe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule, value_size
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
        return paged if paged.lengths_N is None else replace(paged, lengths=paged.lengths_N.tolist())

    def lasting(self, meta: Any, pages: int) -> None:
        return None

    def refresh(self, own: Any, meta: Any) -> None:
        raise NotImplementedError("nothing of this backend lasts")

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Paged, rule: Rule) -> Tensor:
        out = q_THC.new_empty(*q_THC.shape[:2], value_size(q_THC, v_pool_PKSC))
        for row in range(len(meta.counts)):
            first, count, length = meta.starts[row], meta.counts[row], meta.lengths[row]
            pages = meta.tables[row, : -(-length // k_pool_PKSC.shape[2])]
            k, v = (gather(pool, pages, length, q_THC.shape[2]) for pool in (k_pool_PKSC, v_pool_PKSC))
            q = q_THC[first : first + count].transpose(0, 1)
            tree = None if meta.trees_T is None else meta.trees_T[first : first + count]
            out[first : first + count] = attend(q, k, v, rule, tree).transpose(0, 1)
        return out


def visible(queries: int, length: int, rule: Rule, tree_Q: Tensor | None = None) -> Tensor:
    """Which of `length` keys each of the last `queries` positions sees, [queries, length]. `tree_Q` as in `Paged`."""
    position, key = torch.arange(length - queries, length)[:, None], torch.arange(length)
    seen = key <= position
    if tree_Q is not None and bool(tree_Q.any()):
        ancestor_QQ = (tree_Q.cpu()[:, None] >> torch.arange(queries) & 1).bool()
        seen[:, length - queries :] = ancestor_QQ
        position = length - queries + ancestor_QQ.sum(1, keepdim=True) - 1
        key = torch.cat((key[: length - queries], position[:, 0]))
    if rule.window is not None:
        seen &= key > position - rule.window
    return seen if rule.chunk is None else seen & (key >= position // rule.chunk * rule.chunk)


def attend(q_HQC: Tensor, k_KLC: Tensor, v_KLC: Tensor, rule: Rule, tree_Q: Tensor | None = None) -> Tensor:
    """Causal attention of the last Q of L positions, query heads in groups over key-value heads, in fp32."""
    heads, queries, size = q_HQC.shape
    kv_heads, length, wide = v_KLC.shape
    hidden = ~visible(queries, length, rule, tree_Q).to(q_HQC.device)
    nowhere = hidden.all(0)  # keys that no query sees: whatever stands there, it is not multiplied
    k_KLC, v_KLC = (x.float().masked_fill(nowhere[:, None], 0) for x in (k_KLC, v_KLC))
    q = q_HQC.float().reshape(kv_heads, heads // kv_heads * queries, size)
    scores = (q @ k_KLC.transpose(1, 2) * rule.scale).view(heads, queries, length)
    if rule.softcap is not None:
        scores = rule.softcap * (scores / rule.softcap).tanh()
    scores = scores.masked_fill(hidden, float("-inf"))
    if rule.sinks_H is not None:
        scores = torch.cat((scores, rule.sinks_H[:, None, None].expand(heads, queries, 1)), dim=-1)
    weights = scores.softmax(-1)[..., :length]
    out = weights.reshape(kv_heads, -1, length) @ v_KLC
    return out.view(heads, queries, wide).to(q_HQC.dtype)
