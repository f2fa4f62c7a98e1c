"""Weights that are quantized already, in the order that the compiled kernels read (csrc/int8.inc, csrc/int4.inc)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.config.stored import GROUP

PANEL = 16  # outputs that are packed side by side
FOUR = 4  # inputs that lie beside each other


def take_int8(whole_ED: Tensor, scale_E: Tensor) -> Tensor:
    """Panels: 16 scales, 16 sums of weights, [4 inputs][16][4] int8."""
    outputs, inputs = whole_ED.shape
    rows = -outputs % PANEL
    whole = F.pad(whole_ED, (0, -inputs % FOUR, 0, rows)).unflatten(0, (-1, PANEL)).unflatten(2, (-1, FOUR))
    scales = F.pad(scale_E.float(), (0, rows)).unflatten(0, (-1, PANEL)).contiguous()
    sums = whole.sum((2, 3), dtype=torch.int32)
    return torch.cat(
        (scales.view(torch.int8), sums.view(torch.int8), whole.transpose(1, 2).flatten(1)), dim=1
    ).flatten()


def take_int4(half_ED: Tensor, scale_EG: Tensor) -> Tensor:
    """Panels of groups: 16 scales, then four times [16][4] bytes, of 8 inputs each."""
    outputs, inputs = half_ED.shape
    rows = -outputs % PANEL
    half = F.pad(half_ED, (0, -inputs % GROUP, 0, rows)).unflatten(0, (-1, PANEL))
    eights = half.unflatten(2, (-1, 4, 2, FOUR))  # [panel, 16, group, eight, half, 4]
    both = (eights[..., 0, :] | eights[..., 1, :] << 4).permute(0, 2, 3, 1, 4).flatten(2)
    scales = F.pad(scale_EG.to(torch.bfloat16), (0, 0, 0, rows)).unflatten(0, (-1, PANEL)).transpose(1, 2)
    return torch.cat((scales.contiguous().view(torch.uint8), both), dim=2).flatten()
