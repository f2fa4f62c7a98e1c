"""The seam between layers and attention backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class AttentionShape:
    """What a model asks of a backend."""

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Paged:
    """One step's requests, as attention sees them. Row i has queries `starts[i]` to `starts[i] + counts[i]`, which
    are the last `counts[i]` of its `lengths[i]` positions; position p stands in page `tables[i, p // page_size]`.
    """

    starts: list[int]
    counts: list[int]
    lengths: list[int]
    tables: Tensor


class AttentionBackend(Protocol):
    """Attention of every row of a step over its own pages, causal."""

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        """Why this backend cannot serve a shape; empty if it can."""

    def prepare(self, paged: Paged) -> Any:
        """Once per step: whatever `forward` will want for every layer."""

    def lasting(self, meta: Any, pages: int) -> Any:
        """A copy of what `prepare` gave that `refresh` can fill anew for other steps with as many rows and tokens, with
        room for `pages` pages of each row. None where `forward` looks at its numbers in Python.
        """

    def refresh(self, own: Any, meta: Any) -> None:
        """Put the numbers of `meta` into a lasting one."""

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Any, scale: float) -> Tensor:
        """Attention output [T, H, C]. K and V of this step are in the pools already."""
