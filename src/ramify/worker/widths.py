"""Rows of logits of which not all columns count: their adapters have other vocabularies than the model.

A row's numbers depend on it alone: it is sampled and scored over its own columns, however wide the batch is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.ops.kernels import Kernels
from ramify.sampling.sampler import Sampled, sample
from ramify.sampling.state import SamplingState


def sample_each(
    logits_RV: Tensor,
    widths_R: list[int] | None,
    state: SamplingState,
    slots_R: Tensor,
    positions_R: Tensor,
    kernels: Kernels,
) -> Sampled:
    """As `sample`, rows of each width by themselves. None: all columns of all rows count."""
    if widths_R is None:
        return sample(logits_RV, state, slots_R, positions_R, kernels)
    tokens_R = torch.zeros_like(slots_R)
    broken_R, temperature_R = torch.zeros_like(slots_R, dtype=torch.bool), torch.ones(len(slots_R))
    for width in sorted(set(widths_R)):
        at = torch.tensor([row for row, own in enumerate(widths_R) if own == width])
        own = sample(logits_RV[at, :width].contiguous(), state, slots_R[at], positions_R[at], kernels)
        tokens_R[at], broken_R[at], temperature_R[at] = own.tokens_R, own.broken_R, own.temperature_R
    return Sampled(tokens_R, broken_R, logits_RV, temperature_R)
