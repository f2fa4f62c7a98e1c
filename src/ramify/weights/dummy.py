"""Weights from nothing, for shapes and speed: `--load-format dummy`."""

from __future__ import annotations

import torch
from torch import Tensor


def fill(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Matrices get small normal values, norms ones: numbers stay finite through any depth."""
    if tensor.dim() == 1:
        tensor.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    tensor.normal_(0.0, 0.02, generator=generator)
