"""References of the simple ops, in plain PyTorch. Suffixes: see `ops.kernels`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    return F.linear(x_TD, weight_ED, bias_E)


def embed(tokens_T: Tensor, weight_VD: Tensor) -> Tensor:
    return F.embedding(tokens_T, weight_VD)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root mean square norm (Zhang and Sennrich 2019), computed in fp32, scaled in the model's own type."""
    x = x_TD.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return weight_D * x.to(x_TD.dtype)


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x_TD + residual_TD
    return rms_norm(total, weight_D, eps), total


def silu_mul(gate_up_TE: Tensor) -> Tensor:
    gate, up = gate_up_TE.chunk(2, dim=-1)
    return F.silu(gate) * up
