"""What a device brings: kernels, attention backends, threads. Everything device-specific is under `ops/`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch

from ramify.core.errors import StartupError
from ramify.ops.attention import AttentionBackend, AttentionShape
from ramify.ops.cpu.sdpa import SdpaAttention
from ramify.ops.kernels import Kernels
from ramify.ops.reference.attention import ReferenceAttention

log = logging.getLogger(__name__)


class Platform(Protocol):
    """One kind of device. A GPU adds streams, events and captured graphs; on a CPU there is nothing to wait for."""

    device: torch.device
    kernels: Kernels

    def attention(self, name: str, shape: AttentionShape) -> AttentionBackend:
        """The backend of that name; raises `StartupError` with its reasons if it cannot serve the shape."""

    def prepare_thread(self) -> None:
        """To be called on the thread that will compute."""


class CpuPlatform:
    """Plain torch on all `threads` cores."""

    def __init__(self, threads: int) -> None:
        self.device = torch.device("cpu")
        self.kernels = Kernels()
        self._threads = threads

    def attention(self, name: str, shape: AttentionShape) -> AttentionBackend:
        made: dict[str, Callable[[], AttentionBackend]] = {
            "torch_native": lambda: SdpaAttention(shape.page_size),
            "reference": ReferenceAttention,
        }
        backend = made[name]()
        if reasons := backend.reasons_against(shape):
            raise StartupError(f"the attention backend {name} cannot serve this model: {'; '.join(reasons)}")
        return backend

    def prepare_thread(self) -> None:
        torch.set_num_threads(self._threads)


def make_platform(device: str, threads: int) -> Platform:
    """The platform of a resolved `--device`."""
    assert device == "cpu", "resolve knows no other"
    return CpuPlatform(threads)
