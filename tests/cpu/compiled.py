"""What tests of compiled kernels share: the types that they compute in."""

from __future__ import annotations

import pytest
import torch

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
