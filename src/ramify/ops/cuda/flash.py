"""Attention by FlashAttention 3 (Shah et al. 2024), over our pages as they are. Not yet run on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule
from ramify.ops.cuda.library import wanted
from ramify.ops.staging import staging_of

LARGEST = 256  # elements of a head
MULTIPLE = 8
HOPPER = 9  # the compute capability that it is made for


@dataclass(frozen=True)
class Rows:
    """A step's rows, int32, on the device. `most` is the largest number of queries of a row."""

    tables: Tensor
    begins: Tensor
    lengths: Tensor
    most: int


class FlashAttention3:
    """`--attention-backend fa3`."""

    def __init__(self, shape: AttentionShape, device: torch.device) -> None:
        self._attend = wanted("fa3", "flash_attn_interface", "flash_attn_3").flash_attn_with_kvcache
        self._device, self._staging = device, staging_of(device)

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        capability = torch.cuda.get_device_capability(self._device)[0] if self._device.type == "cuda" else HOPPER
        wrong_size = shape.head_dim > LARGEST or shape.head_dim % MULTIPLE != 0
        found = {
            "it is made for Hopper, and this GPU is none": capability != HOPPER,
            f"it computes in bfloat16 and float16, not in {shape.dtype}": shape.dtype not in ("bfloat16", "float16"),
            f"heads have {shape.head_dim} elements, not a multiple of {MULTIPLE} up to {LARGEST}": wrong_size,
            "values have another size than keys": shape.value_dim not in (None, shape.head_dim),
            f"pages hold {shape.stored}, and it wants the type of the queries": shape.stored not in (None, shape.dtype),
            "it knows no attention sinks": shape.sinks,
            "it is given no layers that see chunks": shape.chunks,
            "it knows no trees of drafts": shape.trees,
        }
        return [reason for reason, against in found.items() if against]

    def prepare(self, paged: Paged) -> Rows:
        if paged.trees_T is not None:
            raise NotImplementedError("FlashAttention 3 knows no trees of drafts")
        begins, lengths = self._staging.send(
            np.cumsum([0, *paged.counts], dtype=np.int32), np.array(paged.lengths, dtype=np.int32)
        )
        lengths = lengths if paged.lengths_N is None else paged.lengths_N
        tables, lengths = (each.to(self._device, torch.int32, non_blocking=True) for each in (paged.tables, lengths))
        return Rows(tables.contiguous(), begins, lengths, max(paged.counts))

    def lasting(self, meta: Rows, pages: int) -> Rows:
        own = Rows(meta.tables.new_zeros(len(meta.tables), pages), meta.begins.clone(), meta.lengths.clone(), meta.most)
        self.refresh(own, meta)
        return own

    def refresh(self, own: Rows, meta: Rows) -> None:
        own.tables[:, : meta.tables.shape[1]] = meta.tables
        own.begins.copy_(meta.begins)
        own.lengths.copy_(meta.lengths)

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Rows, rule: Rule) -> Tensor:
        return self._attend(
            q_THC.contiguous(),
            k_pool_PKSC.transpose(1, 2),
            v_pool_PKSC.transpose(1, 2),
            cache_seqlens=meta.lengths,
            page_table=meta.tables,
            cu_seqlens_q=meta.begins,
            max_seqlen_q=meta.most,
            softmax_scale=rule.scale,
            causal=True,
            window_size=(-1, -1) if rule.window is None else (rule.window - 1, 0),
            softcap=rule.softcap or 0.0,
        )
