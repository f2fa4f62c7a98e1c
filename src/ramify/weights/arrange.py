"""What is done to tensors that a checkpoint stores in another order than the layers have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The 16 numbers of FP4 (E2M1) in the order of their codes: OCP Microscaling Formats, version 1.0.
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
SCALE_BIAS = 127


def _halves(tensor: Tensor) -> Tensor:
    """Rows 0, 2, 4, ... and then 1, 3, 5, ... of the last dimension but one: gate and up that were interleaved."""
    return tensor.unflatten(-2, (-1, 2)).transpose(-3, -2).flatten(-3, -2)


def _fp4(blocks: Tensor) -> Tensor:
    """Numbers [..., 32 x blocks] of bytes [..., blocks, 16], two to a byte, the lower half first. Not scaled yet."""
    numbers = torch.tensor(FP4, dtype=torch.bfloat16)[torch.stack((blocks & 15, blocks >> 4), dim=-1).int()]
    return numbers.flatten(-3)


def _powers(scales: Tensor) -> Tensor:
    """What bytes scale a block by."""
    return torch.exp2(scales.float() - SCALE_BIAS)


ARRANGE: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.T,
    "stacked": lambda tensor: tensor.flatten(0, 1),  # [experts, outputs, inputs]
    "stacked transposed": lambda tensor: tensor.transpose(1, 2).flatten(0, 1),
    "stacked transposed halves": lambda tensor: _halves(tensor.transpose(1, 2)).flatten(0, 1),
    "stacked fp4": lambda tensor: _fp4(tensor).flatten(0, 1),  # [experts, outputs, blocks, 16]
    "stacked fp4 halves": lambda tensor: _halves(_fp4(tensor)).flatten(0, 1),
    "stacked powers": lambda tensor: _powers(tensor).flatten(0, 1),
    "stacked powers halves": lambda tensor: _halves(_powers(tensor)).flatten(0, 1),
    "flat": lambda tensor: tensor.flatten(),
    "flat halves": lambda tensor: _halves(tensor.unsqueeze(-1)).flatten(),
}
