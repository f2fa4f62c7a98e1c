"""Attention by FlashInfer (Ye et al. 2025), over our pages as they are. Not yet run on a GPU.

Its `plan` wants exact lengths on the host, so where a step is made ahead of what is known, this waits for the device;
and it wants to know a layer's rule, so that each kind of layer has a wrapper of its own, planned by its first layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule
from ramify.ops.cuda.library import wanted
from ramify.ops.staging import staging_of

HEADS = (64, 128, 256)  # sizes that its kernels have
PAGES = "HND"  # [pages, heads, slots, elements]
WORKSPACE = 128 << 20  # bytes, as its documentation has it

Kind = tuple[float, int | None, float | None]  # what of a rule its plan depends on


@dataclass(frozen=True, eq=False)
class Rows:
    """A step's rows as `plan` wants them: where queries and pages begin, on the host; pages one row after the other."""

    queries: Tensor
    pages: Tensor
    indices: Tensor
    last: Tensor


class FlashInferAttention:
    """`--attention-backend flashinfer`."""

    def __init__(self, shape: AttentionShape, device: torch.device) -> None:
        self._library = wanted("flashinfer", "flashinfer", "flashinfer-python")
        self._shape, self._device, self._staging = shape, device, staging_of(device)
        self._workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=device)
        self._wrappers: dict[Kind, Any] = {}
        self._planned: dict[Kind, Rows] = {}  # what each wrapper was planned for last

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        found = {
            f"it computes in bfloat16 and float16, not in {shape.dtype}": shape.dtype not in ("bfloat16", "float16"),
            f"heads have {shape.head_dim} elements, not one of {HEADS}": shape.head_dim not in HEADS,
            "values have another size than keys": shape.value_dim not in (None, shape.head_dim),
            f"it knows no pages in {shape.stored}": shape.stored not in (None, shape.dtype, "float8_e4m3fn"),
            "it knows no attention sinks": shape.sinks,
            "it knows no layers that see chunks": shape.chunks,
            "it is given no trees of drafts": shape.trees,
        }
        return [reason for reason, against in found.items() if against]

    def prepare(self, paged: Paged) -> Rows:
        if paged.trees_T is not None:
            raise NotImplementedError("flashinfer is given no trees of drafts")
        lengths = np.asarray(paged.lengths if paged.lengths_N is None else paged.lengths_N.tolist())
        page = self._shape.page_size
        pages = -(-lengths // page)
        begins = np.concatenate(([0], np.cumsum(pages)))
        row = np.repeat(np.arange(len(pages)), pages)
        column = np.arange(begins[-1]) - begins[row]
        row_P, column_P = self._staging.send(row.astype(np.int32), column.astype(np.int32))
        tables = paged.tables.to(self._device, torch.int32, non_blocking=True)
        queries = np.concatenate(([0], np.cumsum(paged.counts)))
        return Rows(_int32(queries), _int32(begins), tables[row_P, column_P], _int32(lengths - (pages - 1) * page))

    def lasting(self, meta: Rows, pages: int) -> None:
        return None

    def refresh(self, own: Any, meta: Rows) -> None:
        raise NotImplementedError("nothing of this backend lasts")

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Rows, rule: Rule) -> Tensor:
        wrapper = self._wrapper(q_THC, k_pool_PKSC, meta, rule)
        return wrapper.run(q_THC.contiguous(), (k_pool_PKSC, v_pool_PKSC))

    def _wrapper(self, q_THC: Tensor, k_pool_PKSC: Tensor, meta: Rows, rule: Rule) -> Any:
        """Planned for these rows and this rule."""
        kind = (rule.scale, rule.window, rule.softcap)
        if kind not in self._wrappers:
            self._wrappers[kind] = self._library.BatchPrefillWithPagedKVCacheWrapper(self._workspace, PAGES)
        wrapper = self._wrappers[kind]
        if self._planned.get(kind) is not meta:
            wrapper.plan(
                meta.queries,
                meta.pages,
                meta.indices,
                meta.last,
                q_THC.shape[1],
                k_pool_PKSC.shape[1],
                q_THC.shape[2],
                k_pool_PKSC.shape[2],
                causal=True,
                sm_scale=rule.scale,
                window_left=-1 if rule.window is None else rule.window - 1,
                logits_soft_cap=rule.softcap,
                q_data_type=q_THC.dtype,
                kv_data_type=k_pool_PKSC.dtype,
            )
            self._planned[kind] = meta
        return wrapper


def _int32(numbers: Any) -> Tensor:
    return torch.from_numpy(np.asarray(numbers, dtype=np.int32))
