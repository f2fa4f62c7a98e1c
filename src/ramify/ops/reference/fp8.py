"""Reference of fp8: weights in e4m3 with a scale per output, times inputs in e4m3 with a scale per row.

Stored are, of all outputs, first the numbers, rows filled up to a multiple of 16, and then the scales in float32. A row
with a number that is not finite gets the scale NaN. Keys and values in pages are cast, without a scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.ops.reference.int8 import SMALLEST

KIND = torch.float8_e4m3fn
LARGEST = 448.0
WIDTH = 16


def number_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of `KIND`, and the scale of each row [..., 1]."""
    x = x.float()
    most = x.abs().amax(-1, keepdim=True)
    good, small = most.isfinite(), most < SMALLEST
    scale = torch.where(good, torch.where(small, 0.0, most / LARGEST), float("nan"))
    inverse = torch.where(good & ~small, torch.full_like(most, LARGEST) / most, 0.0)
    return torch.where(good, x * inverse, 0.0).clamp(-LARGEST, LARGEST).to(KIND), scale


def cast(x: Tensor) -> Tensor:
    """The nearest numbers of `KIND`, ties to even: what is too large becomes the largest, what is not finite NaN."""
    x = x.float()
    return x.clamp(-LARGEST, LARGEST).masked_fill(~x.isfinite(), float("nan")).to(KIND)


def store(weight_ED: Tensor) -> Tensor:
    number_ED, scale_E1 = number_and_scale(weight_ED)
    return take(number_ED, scale_E1[:, 0])


def take(number_ED: Tensor, scale_E: Tensor) -> Tensor:
    """Weights in `KIND` and scales, stored as bytes."""
    rows = F.pad(number_ED.view(torch.uint8), (0, -number_ED.shape[1] % WIDTH))
    return torch.cat((rows.flatten(), scale_E.float().contiguous().view(torch.uint8)))


def taken_apart(packed: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Numbers of `KIND` [E, inputs filled up], and scales [E], where they stand."""
    numbers, scales = packed[: -4 * outputs], packed[-4 * outputs :]
    return numbers.view(KIND).view(outputs, -1), scales.view(torch.float32)


def linear(x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
    (x, x_scale_T1), (weight, scale_E) = number_and_scale(x_TD), taken_apart(packed, outputs)
    y = x.float() @ weight[:, : x.shape[1]].float().T * (x_scale_T1 * scale_E)
    return (y if bias_E is None else y + bias_E.float()).to(x_TD.dtype)
