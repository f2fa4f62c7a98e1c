"""The seam between layers and attention backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

TREE = 64  # queries in a tree of drafts


@dataclass(frozen=True)
class AttentionShape:
    """What a model asks of a backend. `value_dim` is the size of a value where it is not that of a key; `window`,
    `softcap` and `sinks`: some layer has one, see `Rule`; `trees`: steps will have some, see `Paged`;
    `chunks`: some layer sees these; `stored` is the type of what stands in pages, where it is not that of the model.
    """

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    dtype: str
    device: str
    value_dim: int | None = None
    window: bool = False
    softcap: bool = False
    sinks: bool = False
    trees: bool = False
    chunks: bool = False
    stored: str | None = None


@dataclass(frozen=True)
class Rule:
    """How a layer attends.

    Scores are q · k times `scale`, then held below `softcap` by a tanh (Gemma 2). A query sees the last `window`
    positions, its own included, and none before the multiple of `chunk` at or before its own (Llama 4). `sinks_H` are
    scores that take part in the softmax of each head and bring no value (GPT-OSS), in fp32.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks_H: Tensor | None = None
    chunk: int | None = None

    def first_key(self, position: int) -> int:
        """The first position that a query at `position` sees. It rises with the position."""
        windowed = 0 if self.window is None else max(position - self.window + 1, 0)
        return windowed if self.chunk is None else max(windowed, position // self.chunk * self.chunk)


@dataclass(frozen=True)
class Paged:
    """One step's requests, as attention sees them. Row i has queries `starts[i]` to `starts[i] + counts[i]`, which
    are the last `counts[i]` of its `lengths_N[i]` positions; position p stands in page `tables[i, p // page_size]`.

    `lengths` are upper bounds of these, that the host knows without asking a device. On a CPU they are exact, as they
    are wherever there are no `lengths_N`, which are int64 on the device.

    `trees_T`: what each query sees of its own row, where that is a tree of drafts: bit j for query j, its own and those
    of its ancestors, int64 on the device; 0 for queries of other rows, which see all before them. None where no row is
    a tree. A tree has at most `TREE` queries, parents before their children. All of them see what stands before the
    row. Positions, for windows, are counted along the branch: a draft's is its depth, though its key stands elsewhere.
    """

    starts: list[int]
    counts: list[int]
    lengths: list[int]
    tables: Tensor
    lengths_N: Tensor | None = None
    trees_T: Tensor | None = None


def value_size(q_THC: Tensor, v_pool_PKSC: Tensor) -> int:
    """Elements of a value. Rows of int8 are longer, by their scale."""
    return q_THC.shape[2] if v_pool_PKSC.dtype is torch.int8 else v_pool_PKSC.shape[3]


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

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Any, rule: Rule) -> Tensor:
        """Attention output [T, H, size of a value]. K and V of this step are in the pools already. What stands before
        the window of all queries is not looked at: its pages may be anybody's.
        """
