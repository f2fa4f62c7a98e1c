"""References of what encoders need beside the ops of decoders. Suffixes: see `ops.kernels`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.ops.reference.rope import rotate


def layer_norm(x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float) -> Tensor:
    """Layer norm (Ba et al. 2016), computed in fp32."""
    bias = None if bias_D is None else bias_D.float()
    return F.layer_norm(x_TD.float(), x_TD.shape[-1:], weight_D.float(), bias, eps).to(x_TD.dtype)


def add_layer_norm(
    x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    total = x_TD + residual_TD
    return layer_norm(total, weight_D, bias_D, eps), total


def rotate_qk(qkv_TE: Tensor, heads: int, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv_TE.chunk(3, dim=-1))
    parts = (rotate(q, cos_TR, sin_TR), rotate(k, cos_TR, sin_TR), v)
    return torch.cat([part.flatten(1) for part in parts], dim=-1)


def attend_texts(qkv_TE: Tensor, heads: int, starts_N: Tensor, counts_N: Tensor, window: int, scale: float) -> Tensor:
    """Text by text, so that none sees padding or another."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in qkv_TE.chunk(3, dim=-1))
    out_HTC = torch.empty_like(q)
    for start, count in zip(starts_N.tolist(), counts_N.tolist(), strict=True):
        at = slice(start, start + count)
        near = _near(count, window, q.device) if window else None
        out_HTC[:, at] = F.scaled_dot_product_attention(q[:, at], k[:, at], v[:, at], attn_mask=near, scale=scale)
    return out_HTC.transpose(0, 1).flatten(1)


def _near(count: int, window: int, device: torch.device) -> Tensor:
    positions = torch.arange(count, device=device)
    return (positions[:, None] - positions[None, :]).abs() <= window
