"""Times and ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def milliseconds(compute: Callable[[], object], device: torch.device) -> float:
    """The median over many runs, caches of the device emptied between them; on a CPU one run."""
    if device.type == "cpu":
        began = time.perf_counter()
        compute()
        return 1e3 * (time.perf_counter() - began)
    from triton.testing import do_bench

    return float(do_bench(compute, warmup=50, rep=200, return_mode="median"))


@dataclass(frozen=True)
class Ceilings:
    """What this device was seen to do: bytes and operations a second."""

    bytes: float
    operations: float


def ceilings(device: torch.device) -> Ceilings:
    """A copy of 4 GiB, bytes read and written, and a product of bfloat16 matrices of random numbers."""
    if device.type == "cpu":
        return Ceilings(1e10, 1e11)
    return Ceilings(_copied(device), _multiplied(device, 8192))


def _copied(device: torch.device) -> float:
    source = torch.empty(1 << 30, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source), device) * 1e3


def _multiplied(device: torch.device, size: int) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / milliseconds(lambda: a @ b, device) * 1e3


def error(ours: Tensor, reference: Tensor) -> float:
    """Of all numbers together; infinite where one is not finite that should be."""
    ours, reference = ours.double(), reference.double()
    if not torch.equal(ours.isfinite(), reference.isfinite()):
        return float("inf")
    ours, reference = ours.nan_to_num(0.0, 0.0, 0.0), reference.nan_to_num(0.0, 0.0, 0.0)
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-30))


def bar(reached: float, wanted: float) -> str:
    """A cell of a table."""
    return f"{'met' if reached >= wanted else 'missed'} ({wanted:g})"
