"""References of what is done to many rows of logits at once. Suffixes: see `ops.kernels`; M rows that are changed."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    return logits_NV.double().log_softmax(-1).gather(1, tokens_N[:, None])[:, 0].float()


def forbid(logits_RV: Tensor, rows_M: Tensor, words_MW: Tensor) -> None:
    at_V = torch.arange(logits_RV.shape[1], device=logits_RV.device)
    allowed_MV = (words_MW[:, at_V // 32] >> (at_V % 32)) & 1 == 1
    logits_RV[rows_M] = logits_RV[rows_M].masked_fill(~allowed_MV, float("-inf"))


def penalise(
    logits_RV: Tensor,
    rows_M: Tensor,
    offsets_M: Tensor,
    outputs_T: Tensor,
    frequency_M: Tensor,
    presence_M: Tensor,
    repetition_M: Tensor,
    longest: int,
) -> None:
    """OpenAI's frequency and presence penalties, and the multiplicative one of Keskar et al. 2019."""
    for index, row in enumerate(rows_M.tolist()):
        ids, counts = outputs_T[int(offsets_M[index]) : int(offsets_M[index + 1])].long().unique(return_counts=True)
        x = logits_RV[row, ids] - (frequency_M[index] * counts + presence_M[index])
        logits_RV[row, ids] = torch.where(x > 0, x / repetition_M[index], x * repetition_M[index])
