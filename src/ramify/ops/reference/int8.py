"""Reference of int8: rows of whole numbers with a scale each, and linears over them.

A row of numbers is stored as its whole numbers, a multiple of four of them, and behind those the four bytes of its
scale: number = whole * scale. Both sides of zero have the same range, [-127, 127]. A row with a number that is not
finite gets the scale NaN. Keys and values in pages have the same form, from the compiled kernels too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.config.stored import SCALE_BYTES

LARGEST = 127
SMALLEST = 1e-30  # below that a row is stored as zeros: the inverse of its scale would be infinite
EXACT = 1024  # inputs whose products of int8 sum up exactly in float32, in any order


def whole_and_scale(x: Tensor, largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """Whole numbers within [-largest, largest], still as float32, and the scale of each row [..., 1]."""
    x = x.float()
    most = x.abs().amax(-1, keepdim=True)
    good = most.isfinite()
    small = most < SMALLEST
    scale = torch.where(good, torch.where(small, 0.0, most / largest), float("nan"))
    inverse = torch.where(good & ~small, torch.full_like(most, largest) / most, 0.0)
    return torch.where(good, (x * inverse).round(), 0.0), scale


def store(x: Tensor) -> Tensor:
    """Rows [..., C] as int8 [..., int8_row(C)]."""
    whole, scale = whole_and_scale(x)
    return torch.cat((F.pad(whole, (0, -x.shape[-1] % 4)).to(torch.int8), scale.view(torch.int8)), dim=-1)


def take(whole_ED: Tensor, scale_E: Tensor) -> Tensor:
    """Rows that are int8 already, stored: [E, int8_row(D)]."""
    scale_E1 = scale_E.float()[:, None].contiguous()
    return torch.cat((F.pad(whole_ED, (0, -whole_ED.shape[1] % 4)), scale_E1.view(torch.int8)), dim=-1)


def taken_apart(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Stored rows as float32: whole numbers [..., C] and scales [..., 1]."""
    return rows[..., :size].float(), rows[..., -SCALE_BYTES:].contiguous().view(torch.float32)


def numbers(rows: Tensor, size: int) -> Tensor:
    """Stored rows as float32 [..., C]."""
    whole, scale = taken_apart(rows, size)
    return whole * scale


def from_pool(rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Rows of pages, whatever they are stored in, as numbers of a type."""
    return (numbers(rows, size) if rows.dtype is torch.int8 else rows).to(dtype)


def linear(x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
    """Exact sums of whole numbers, then the scales of row and output, then the bias; all in float32."""
    (x, x_scale), (weight, scale) = whole_and_scale(x_TD), taken_apart(packed, x_TD.shape[1])
    total = torch.zeros(x.shape[0], outputs, dtype=torch.float64)
    for first in range(0, x.shape[1], EXACT):
        block = slice(first, first + EXACT)
        total += x[:, block] @ weight[:, block].T
    y = total.float() * (x_scale * scale.T)
    return (y if bias_E is None else y + bias_E.float()).to(x_TD.dtype)


def embed(tokens_T: Tensor, packed: Tensor, inputs: int) -> Tensor:
    return numbers(packed[tokens_T], inputs)
