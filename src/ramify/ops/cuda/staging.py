"""Numbers to a GPU and back, while it works. Not yet run on one: see docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ramify.ops.staging import Numbers, apart, one_array


class CudaFetched:
    def __init__(self, tensors: list[Tensor], done: torch.cuda.Event) -> None:
        self._tensors, self._done = tensors, done

    def wait(self) -> list[Tensor]:
        self._done.synchronize()  # without the interpreter's lock
        return self._tensors


class CudaStaging:
    """Over pinned memory, of which torch gives no byte out again before the copies from it are done."""

    is_host = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, *numbers: Numbers) -> list[Tensor]:
        pinned = torch.from_numpy(one_array(numbers)).pin_memory()
        return apart(pinned.to(self._device, non_blocking=True), numbers)

    def fetch(self, tensors: Sequence[Tensor]) -> CudaFetched:
        there = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
        for target, source in zip(there, tensors, strict=True):
            target.copy_(source, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return CudaFetched(there, done)
