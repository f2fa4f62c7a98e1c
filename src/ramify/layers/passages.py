"""What an encoder needs to know of one step: whole texts, one behind the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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


def make_passages(texts: list[Tensor], seconds: list[int], device: torch.device) -> Passages:
    """`seconds[i]` is where the second of a pair begins in text i, -1 where there is none."""
    counts = [len(text) for text in texts]
    starts = [sum(counts[:at]) for at in range(len(counts))]
    positions = [torch.arange(count, device=device) for count in counts]
    types = [
        (places >= second).long() if second >= 0 else torch.zeros_like(places)
        for places, second in zip(positions, seconds, strict=True)
    ]
    return Passages(
        torch.cat(texts),
        torch.cat(positions),
        torch.cat(types),
        starts,
        counts,
        torch.tensor(starts, dtype=torch.int32, device=device),
        torch.tensor(counts, dtype=torch.int32, device=device),
    )
