"""Reference of int4: weights in groups of 32 inputs with a scale each, times int8 with a scale per row and group.

A weight is (half - 8) * scale, halves of bytes being 0 to 15. The sign of the scale, which is in bfloat16, is such that
the group's largest weight has the half 0: that side reaches 8 and the other 7. Stored are, for every output and group,
16 bytes (input k in the low half of byte k, input k + 16 in its high half) and the two of the scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.config.stored import GROUP
from ramify.ops.reference.int8 import SMALLEST, whole_and_scale


def grouped(x: Tensor) -> Tensor:
    """Rows [..., D] as float32 [..., groups, GROUP], zeros behind their end."""
    return F.pad(x.float(), (0, -x.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))


def store(weight_ED: Tensor) -> Tensor:
    """Weights as bytes [E, groups, GROUP / 2 + 2]."""
    x = grouped(weight_ED)
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    scale = (torch.where(high >= -low, high, low) / -8).to(torch.bfloat16)
    scale = torch.where(x.abs().amax(-1, keepdim=True) < SMALLEST, 0.0, scale).to(torch.bfloat16)
    scale = torch.where(x.isfinite().all(-1, keepdim=True), scale, float("nan")).to(torch.bfloat16)
    inverse = torch.where(scale == 0, 0.0, 1 / scale.float())
    halves = ((x * inverse).round().clamp(-8, 7) + 8).nan_to_num(0).to(torch.uint8)
    both = halves[..., : GROUP // 2] | halves[..., GROUP // 2 :] << 4
    return torch.cat((both, scale.contiguous().view(torch.uint8)), dim=-1)


def take(half_ED: Tensor, scale_EG: Tensor) -> Tensor:
    """Halves from 0 to 15 and scales of 32 inputs, stored: bytes [E, groups, GROUP / 2 + 2]."""
    half_EGK = F.pad(half_ED, (0, -half_ED.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    both = half_EGK[..., : GROUP // 2] | half_EGK[..., GROUP // 2 :] << 4
    return torch.cat((both, scale_EG.to(torch.bfloat16)[..., None].view(torch.uint8)), dim=-1)


def taken_apart(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Stored weights as float32: whole numbers from -8 to 7 [E, groups, GROUP], and scales [E, groups]."""
    both, scale = packed[..., :-2], packed[..., -2:].contiguous().view(torch.bfloat16)[..., 0]
    return torch.cat((both & 15, both >> 4), dim=-1).float() - 8, scale.float()


def linear(x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
    """Exact sums over a group, then group by group in their order, in float32."""
    whole_EGK, scale_EG = taken_apart(packed)
    x_TGK, x_scale_TG1 = whole_and_scale(grouped(x_TD))
    y = torch.zeros(x_TD.shape[0], outputs)
    for group in range(x_TGK.shape[1]):
        y += (x_TGK[:, group] @ whole_EGK[:, group].T) * (x_scale_TG1[:, group] * scale_EG[:, group])
    return (y if bias_E is None else y + bias_E.float()).to(x_TD.dtype)


def wide_linear(x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
    """The same weights, rounded to the type of the inputs, which stay as they are: what GPUs compute (W4A16)."""
    whole_EGK, scale_EG = taken_apart(packed)
    weight_ED = (whole_EGK * scale_EG[..., None]).flatten(1)[:, : x_TD.shape[1]].to(x_TD.dtype)
    y = x_TD.float() @ weight_ED.float().T
    return (y if bias_E is None else y + bias_E.float()).to(x_TD.dtype)
