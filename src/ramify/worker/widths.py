"""Rows of logits of which not all columns count: their adapters have other vocabularies than the model.

A row's numbers depend on it alone: it is sampled and scored over its own columns, however wide the batch is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.ops.kernels import Kernels
from ramify.ops.staging import Staging
from ramify.sampling.adjust import Drawn
from ramify.sampling.sampler import Sampled, sample
from ramify.sampling.state import SamplingState


def sample_each(
    logits_RV: Tensor,
    widths: Sequence[int] | None,
    state: SamplingState,
    drawn: Drawn,
    draws: bool,
    kernels: Kernels,
    staging: Staging,
) -> Sampled:
    """As `sample`, rows of each width by themselves. None: all columns of all rows count."""
    slots_R, positions_R = drawn.slots_R, drawn.positions_R
    if widths is None:
        return sample(logits_RV, state, slots_R, positions_R, draws, kernels)
    tokens_R, broken_R = torch.zeros_like(slots_R), torch.zeros_like(slots_R, dtype=torch.bool)
    for width in sorted(set(widths)):
        (at,) = staging.send(np.flatnonzero(np.array(widths) == width))
        own = sample(logits_RV[at, :width].contiguous(), state, slots_R[at], positions_R[at], draws, kernels)
        tokens_R[at], broken_R[at] = own.tokens_R, own.broken_R
    return Sampled(tokens_R, broken_R, logits_RV, state.temperature[slots_R])


def as_wide(logits_RV: Tensor, widths: Sequence[int] | None, row: int) -> Tensor:
    """The columns that count for a row, and for those that are computed with it."""
    return logits_RV if widths is None else logits_RV[:, : widths[row]].contiguous()


def words_for(words: NDArray[np.uint32], width: int) -> NDArray[np.uint32]:
    """Masks of so many tokens: what a mask does not know may not be sampled."""
    missing = -(-width // 32) - words.shape[1]
    return np.pad(words, ((0, 0), (0, missing))) if missing > 0 else words
