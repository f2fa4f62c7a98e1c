"""What an encoder needs to know of one step: whole texts, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ramify.ops.staging import Staging


@dataclass(frozen=True)
class Passages:
    """N texts of T tokens together. `positions_T` are counted within each text, `types_T` tell the second of a pair
    from the first. Text i stands at `starts[i]` with `counts[i]` tokens; `starts_N` and `counts_N` are the same for
    kernels.
    """

    tokens_T: Tensor
    positions_T: Tensor
    types_T: Tensor
    starts: list[int]
    counts: list[int]
    starts_N: Tensor
    counts_N: Tensor


def make_passages(texts: Sequence[Sequence[int]], seconds: Sequence[int], staging: Staging) -> Passages:
    """`seconds[i]` is where the second of a pair begins in text i, -1 where there is none."""
    counts = np.array([len(text) for text in texts])
    starts = np.cumsum(counts) - counts
    positions = np.arange(counts.sum()) - np.repeat(starts, counts)
    second = np.repeat(
        [second if second >= 0 else len(text) for text, second in zip(texts, seconds, strict=True)], counts
    )
    tokens = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    tokens_T, positions_T, types_T = staging.send(tokens, positions, (positions >= second).astype(np.int64))
    starts_N, counts_N = staging.send(starts.astype(np.int32), counts.astype(np.int32))
    return Passages(tokens_T, positions_T, types_T, starts.tolist(), counts.tolist(), starts_N, counts_N)
