"""What tests of compiled kernels share: types, numbers, and how close is close."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(ours: Tensor, reference: Tensor) -> None:
    """Within a few units in the last place of the largest number."""
    assert ours.dtype == reference.dtype
    assert ours.shape == reference.shape
    bound = 1e-5 if ours.dtype == torch.float32 else 1.5e-2
    assert (ours.float() - reference.float()).abs().max() <= bound * reference.float().abs().max()
