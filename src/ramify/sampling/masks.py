"""Tokens that a row may not sample get no probability at all."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def forbid(logits_RV: Tensor, rows: list[int], words: NDArray[np.uint32]) -> None:
    """Sets to -inf, in place, the logits of row `rows[i]` whose bit in `words[i]` is not set (see `wire.masks`)."""
    vocab = logits_RV.shape[1]
    bits = np.unpackbits(words.view(np.uint8), axis=1, count=vocab, bitorder="little")
    allowed_MV = torch.from_numpy(bits.view(np.bool_)).to(logits_RV.device)
    logits_RV[rows] = logits_RV[rows].masked_fill(~allowed_MV, float("-inf"))
