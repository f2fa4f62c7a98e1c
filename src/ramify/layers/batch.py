"""What every model needs to know of one step, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramify.memory.kv import KVPool


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
