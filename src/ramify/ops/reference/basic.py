"""References of the simple ops, in plain PyTorch. Suffixes: see `ops.kernels`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    return F.linear(x_TD, weight_ED, bias_E)


def embed(tokens_T: Tensor, weight_VD: Tensor) -> Tensor:
    return F.embedding(tokens_T, weight_VD)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """Root mean square norm (Zhang and Sennrich 2019), computed in fp32, scaled in the model's own type.

    With an `offset` to the weight, as Gemma has it, scaled in fp32 too.
    """
    x = x_TD.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    if offset:
        return (x * (weight_D.float() + offset)).to(x_TD.dtype)
    return weight_D * x.to(x_TD.dtype)


def add_rms_norm(
    x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    total = x_TD + residual_TD
    return rms_norm(total, weight_D, eps, offset), total


def gated(gate_up_TE: Tensor, activation: str) -> Tensor:
    gate, up = gate_up_TE.chunk(2, dim=-1)
    if activation == "clamped_swiglu":  # GPT-OSS
        gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
        return (up + 1) * (gate * torch.sigmoid(1.702 * gate))
    return activate(gate, activation) * up


def activate(x_TE: Tensor, activation: str) -> Tensor:
    """By the names of `config.model.ACTIVATIONS`, and sigmoid."""
    match activation:
        case "silu":
            return F.silu(x_TE)
        case "gelu_tanh":
            return F.gelu(x_TE, approximate="tanh")
        case "gelu":
            return F.gelu(x_TE)
        case "relu":
            return F.relu(x_TE)
        case "sigmoid":
            return torch.sigmoid(x_TE)
    raise AssertionError(f"no activation is called {activation}")


def softcap(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap)
