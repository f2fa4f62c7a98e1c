"""References of what is done to many rows of logits at once. Suffixes: see `ops.kernels`; M rows that are changed."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    return logits_NV.float().log_softmax(-1).gather(1, tokens_N[:, None])[:, 0]


def forbid(logits_RV: Tensor, rows_M: Tensor, words_MW: Tensor) -> None:
    shifts = torch.arange(8, dtype=torch.uint8, device=logits_RV.device)
    bits_MV = (words_MW.view(torch.uint8)[..., None] >> shifts & 1).flatten(1)[:, : logits_RV.shape[1]]
    allowed_MV = bits_MV.bool()
    logits_RV[rows_M] = logits_RV[rows_M].masked_fill(~allowed_MV, float("-inf"))


def penalise(
    logits_RV: Tensor,
    rows_M: Tensor,
    tokens_SC: Tensor,
    slots_M: Tensor,
    first_M: Tensor,
    end_M: Tensor,
    frequency_M: Tensor,
    presence_M: Tensor,
    repetition_M: Tensor,
    longest: int,
) -> None:
    """OpenAI's frequency and presence penalties, and the multiplicative one of Keskar et al. 2019."""
    places = zip(rows_M.tolist(), slots_M.tolist(), first_M.tolist(), end_M.tolist(), strict=True)
    for index, (row, slot, first, end) in enumerate(places):
        ids, counts = tokens_SC[slot, first:end].unique(return_counts=True)
        x = logits_RV[row, ids] - (frequency_M[index] * counts + presence_M[index])
        logits_RV[row, ids] = torch.where(x > 0, x / repetition_M[index], x * repetition_M[index])
