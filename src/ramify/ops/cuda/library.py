"""Libraries that some backends compute with, where somebody has installed them, and how they get their numbers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.core.errors import StartupError


def wanted(backend: str, module: str, package: str) -> Any:
    """The module that a backend needs."""
    try:
        return import_module(module)
    except ImportError as e:
        raise StartupError(
            f"--attention-backend {backend} needs the package {package}, which cannot be imported: {e}",
            "Install it, or leave --attention-backend out.",
        ) from None


def sent(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """As int32 on the device, while it may still be busy."""
    host = torch.from_numpy(numbers.astype(np.int32))
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)
