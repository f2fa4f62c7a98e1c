"""References of what a mixture of experts needs. Suffixes: see `ops.kernels`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_linear(x_RD: Tensor, weight_GED: Tensor, bias_GE: Tensor | None, ends_G: Tensor) -> Tensor:
    """Rows that are sorted by group, each multiplied by the weight of its group."""
    ends = ends_G.tolist()
    parts = [
        F.linear(x_RD[first:end], weight_GED[group], None if bias_GE is None else bias_GE[group])
        for group, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
    ]
    return torch.cat(parts)


def combine(y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """The weighted sum of the rows of each token, in fp32."""
    return (y_RD[rows_TK].float() * weights_TK.float()[..., None]).sum(1).to(y_RD.dtype)
