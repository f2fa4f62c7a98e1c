"""What every model needs to know of one step, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramify.memory.kv import KVPool


@dataclass(frozen=True)
class Vectors:
    """Inputs of a step that are vectors and no tokens: they stand at `at_E` among its T tokens and are `x_ED`."""

    at_E: Tensor
    x_ED: Tensor


@dataclass(frozen=True)
class Batch:
    """The rows of a step, one after another. T tokens, N rows.

    `tokens_T`, `positions_T` are what is computed; `write_at_T` is the KV slot (page x page size + offset) of each.
    Row i stands at `starts[i]` with `counts[i]` tokens, after which its request is `lengths[i]` long. `attention` is
    what the backend prepared, `pool` where K and V are.
    """

    tokens_T: Tensor
    positions_T: Tensor
    write_at_T: Tensor
    starts: list[int]
    counts: list[int]
    lengths: list[int]
    attention: Any
    pool: KVPool
    vectors: Vectors | None = None

    def inputs(self, x_TD: Tensor) -> Tensor:
        """What the first layer reads, of the embeddings of `tokens_T`; writes where vectors were given instead."""
        if self.vectors is not None:
            x_TD[self.vectors.at_E] = self.vectors.x_ED.to(x_TD.dtype)
        return x_TD
