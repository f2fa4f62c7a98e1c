"""The seam between the memory of the host and that of a device that works behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[Any]


class Fetched(Protocol):
    """Tensors on their way to the host."""

    def wait(self) -> list[Tensor]:
        """They, once they are there. From any thread, as often as one likes."""


class Staging(Protocol):
    """Of a platform. Nothing here waits for what the device was asked to do before, but `Fetched.wait`."""

    is_host: bool  # the device is the host: what it computed can be looked at, and nothing is late

    def send(self, *numbers: Numbers) -> list[Tensor]:
        """Numbers of one type on the device, in one copy. They are the caller's again when this returns."""

    def fetch(self, tensors: Sequence[Tensor]) -> Fetched:
        """Begin to bring tensors to the host, as they will be once everything asked for before is done."""


class Here:
    """What is on the host already."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)

    def wait(self) -> list[Tensor]:
        return self._tensors


class HostStaging:
    """The device is the host. Where it is another, whoever asks waits for it, as one may before anything is served."""

    is_host = True

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    def send(self, *numbers: Numbers) -> list[Tensor]:
        return [torch.tensor(each, device=self._device) for each in numbers]

    def fetch(self, tensors: Sequence[Tensor]) -> Here:
        """Copies: what a step left may be written anew by the next."""
        return Here([each.clone() for each in tensors])


def staging_of(device: torch.device) -> Staging:
    if device.type == "cpu":
        return HostStaging()
    from ramify.ops.cuda.staging import CudaStaging

    return CudaStaging(device)


def one_array(numbers: Sequence[Numbers]) -> Numbers:
    """All of them, one behind the other, in memory of its own."""
    return np.concatenate([each.ravel() for each in numbers])


def apart(flat: Tensor, numbers: Sequence[Numbers]) -> list[Tensor]:
    """What `one_array` put together."""
    parts = flat.split([each.size for each in numbers])
    return [part.view(each.shape) for part, each in zip(parts, numbers, strict=True)]
