"""FlashInfer and FlashAttention 3 as they are called, computed by our reference: they need a GPU, and are not ours.

Signatures, layouts and checks are those of FlashInfer 0.6 (`flashinfer/prefill.py`) and of FlashAttention's
`hopper/flash_attn_interface.py`. What our backends never pass is refused.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ramify.ops.attention import Rule
from ramify.ops.reference.attention import attend


def attended(q_QHC: Tensor, k_LKC: Tensor, v_LKC: Tensor, rule: Rule) -> Tensor:
    return attend(q_QHC.transpose(0, 1), k_LKC.transpose(0, 1), v_LKC.transpose(0, 1), rule).transpose(0, 1)


def is_int32(*tensors: Tensor) -> bool:
    return all(tensor.dtype is torch.int32 and tensor.is_contiguous() for tensor in tensors)


class BatchPrefillWithPagedKVCacheWrapper:
    """The last `plan` stands until the next."""

    def __init__(
        self, float_workspace_buffer: Tensor, kv_layout: str = "NHD", use_cuda_graph: bool = False, **others: Any
    ) -> None:
        assert kv_layout in ("NHD", "HND")
        assert float_workspace_buffer.dtype is torch.uint8
        assert not use_cuda_graph
        assert not others
        self._layout = kv_layout
        self.plans = 0

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        head_dim_vo: int | None = None,
        custom_mask: Tensor | None = None,
        packed_custom_mask: Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: torch.dtype | str = "float16",
        kv_data_type: torch.dtype | None = None,
        **others: Any,
    ) -> None:
        assert is_int32(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert len(qo_indptr) == len(paged_kv_indptr) == len(paged_kv_last_page_len) + 1
        assert len(paged_kv_indices) == paged_kv_indptr[-1]
        assert 1 <= paged_kv_last_page_len.min() <= paged_kv_last_page_len.max() <= page_size
        assert num_qo_heads % num_kv_heads == 0
        assert head_dim_vo in (None, head_dim_qk)
        assert custom_mask is packed_custom_mask is None
        assert causal
        assert (pos_encoding_mode, use_fp16_qk_reduction, rope_scale, rope_theta) == ("NONE", False, None, None)
        assert sm_scale is not None
        assert not others
        self._queries, self._begins = qo_indptr.tolist(), paged_kv_indptr.tolist()
        self._indices, self._last = paged_kv_indices.long(), paged_kv_last_page_len.tolist()
        self._shape = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        self._types = (q_data_type, kv_data_type)
        self._rule = Rule(sm_scale, None if window_left < 0 else window_left + 1, logits_soft_cap or None)
        self.plans += 1

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        caches = [cache if self._layout == "NHD" else cache.transpose(1, 2) for cache in paged_kv_cache]
        assert (q.shape[1], caches[0].shape[2], q.shape[2], caches[0].shape[1]) == self._shape
        assert (q.dtype, caches[0].dtype) == self._types
        assert len(q) == self._queries[-1]
        out = torch.full_like(q, float("nan"))
        for row, last in enumerate(self._last):
            pages = self._indices[self._begins[row] : self._begins[row + 1]]
            length = (len(pages) - 1) * self._shape[3] + last
            k, v = (cache[pages].flatten(0, 1)[:length] for cache in caches)
            own = slice(self._queries[row], self._queries[row + 1])
            out[own] = attended(q[own], k, v, self._rule)
        return out


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    qv: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    page_table: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    max_seqlen_q: int | None = None,
    rotary_seqlens: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    scheduler_metadata: Tensor | None = None,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor:
    assert all(x is None for x in (k, v, qv, rotary_cos, rotary_sin, cache_batch_idx, cache_leftpad, cu_seqlens_k_new))
    assert all(x is None for x in (rotary_seqlens, q_descale, k_descale, v_descale, scheduler_metadata, pack_gqa))
    assert (rotary_interleaved, num_splits, sm_margin, return_softmax_lse) == (True, 0, 0, False)
    assert page_table is not None
    assert cu_seqlens_q is not None
    assert cache_seqlens is not None
    assert softmax_scale is not None
    assert is_int32(page_table, cu_seqlens_q, cache_seqlens)
    assert q.dtype is k_cache.dtype is v_cache.dtype
    assert k_cache.stride(-1) == v_cache.stride(-1) == 1
    assert causal
    assert attention_chunk == 0
    assert window_size == (-1, -1) or window_size[1] == 0
    begins = cu_seqlens_q.tolist()
    assert max_seqlen_q == max(end - begin for begin, end in pairwise(begins))
    rule = Rule(softmax_scale, None if window_size[0] < 0 else window_size[0] + 1, softcap or None)
    out = torch.full_like(q, float("nan"))
    for row, length in enumerate(cache_seqlens.tolist()):
        pages = page_table[row, : -(-length // k_cache.shape[1])].long()
        keys, values = (cache[pages].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
        own = slice(begins[row], begins[row + 1])
        out[own] = attended(q[own], keys, values, rule)
    return out


def modules() -> dict[str, ModuleType]:
    flashinfer, flash = ModuleType("flashinfer"), ModuleType("flash_attn_interface")
    flashinfer.BatchPrefillWithPagedKVCacheWrapper = BatchPrefillWithPagedKVCacheWrapper  # type: ignore[attr-defined]
    flash.flash_attn_with_kvcache = flash_attn_with_kvcache  # type: ignore[attr-defined]
    return {"flashinfer": flashinfer, "flash_attn_interface": flash}
