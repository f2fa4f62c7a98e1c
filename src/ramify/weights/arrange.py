"""What is done to tensors that a checkpoint stores in another order than the layers have."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def _halves(tensor: Tensor) -> Tensor:
    """Rows 0, 2, 4, ... and then 1, 3, 5, ... of the last dimension but one: gate and up that were interleaved."""
    return tensor.unflatten(-2, (-1, 2)).transpose(-3, -2).flatten(-3, -2)


ARRANGE: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.T,
    "stacked": lambda tensor: tensor.flatten(0, 1),  # [experts, outputs, inputs]
    "stacked transposed": lambda tensor: tensor.transpose(1, 2).flatten(0, 1),
    "stacked transposed halves": lambda tensor: _halves(tensor.transpose(1, 2)).flatten(0, 1),
    "flat": lambda tensor: tensor.flatten(),
    "flat halves": lambda tensor: _halves(tensor.unsqueeze(-1)).flatten(),
}
