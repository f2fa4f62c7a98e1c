"""What every model needs to know of one step, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramify.memory.kv import KVCache
from ramify.ops.lora import Runs
from ramify.ops.states import Spans


@dataclass(frozen=True)
class Vectors:
    """Inputs of a step that are vectors and no tokens: they stand at `at_E` among its T tokens and are `x_ED`."""

    at_E: Tensor
    x_ED: Tensor


@dataclass(frozen=True)
class Place:
    """Where a group of layers keeps a step: the KV slot (page x page size + offset) of each token, and what the
    attention backend prepared of the group's page tables.
    """

    write_at_T: Tensor
    attention: Any


@dataclass(frozen=True)
class Batch:
    """The rows of a step, one after another. T tokens, N rows.

    `tokens_T`, `positions_T` are what is computed. Row i stands at `starts[i]` with `counts[i]` tokens, after which its
    request is at most `lengths[i]` long, on a CPU just so. `places` has an entry per group of layers that attend,
    `pool` is where K, V and states are. `spans` are there where layers keep states, `runs` where rows have adapters: a
    run for each row, empty for one without.
    """

    tokens_T: Tensor
    positions_T: Tensor
    starts: list[int]
    counts: list[int]
    lengths: list[int]
    places: tuple[Place, ...]
    pool: KVCache
    vectors: Vectors | None = None
    spans: Spans | None = None
    runs: Runs | None = None

    def place(self, layer: int) -> Place:
        return self.places[self.pool.groups[layer]]

    @property
    def states(self) -> Spans:
        """The spans of a model that has layers that keep a state."""
        assert self.spans is not None
        return self.spans

    def inputs(self, x_TD: Tensor) -> Tensor:
        """What the first layer reads, of the embeddings of `tokens_T`; writes where vectors were given instead."""
        if self.vectors is not None:
            x_TD[self.vectors.at_E] = self.vectors.x_ED.to(x_TD.dtype)
        return x_TD
