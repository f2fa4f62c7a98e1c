"""What a device brings: kernels, attention backends, threads. Everything device-specific is under `ops/`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import psutil
import torch

from ramify.core.errors import StartupError
from ramify.ops.attention import AttentionBackend, AttentionShape
from ramify.ops.cpu import library
from ramify.ops.cpu.compiled import TYPES, compiled_kernels
from ramify.ops.cpu.paged import PagedAttention
from ramify.ops.cpu.record import CpuRecorder, Functions
from ramify.ops.cpu.sdpa import SdpaAttention
from ramify.ops.kernels import Kernels
from ramify.ops.modes import Modes, OneMode
from ramify.ops.recording import Capturer, Recorder
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.staging import HostStaging, Staging

log = logging.getLogger(__name__)


class Platform(Protocol):
    """One kind of device. A GPU works behind the host; on a CPU there is nothing to wait for."""

    device: torch.device
    kernels: Kernels
    staging: Staging
    modes: Modes
    recorder: Recorder | None  # without it and the next, every step is computed kernel by kernel
    capturer: Capturer | None

    def attention(self, name: str, shape: AttentionShape) -> AttentionBackend:
        """The backend of that name; raises `StartupError` with its reasons if it cannot serve the shape."""

    def prepare_thread(self) -> None:
        """To be called on the thread that will compute."""

    def free_bytes(self) -> int:
        """What may still be allocated on the device."""


class CpuPlatform:
    """The compiled kernels on all `threads` cores if they are there and know the type, else plain torch. With
    `linears` torch, it multiplies with weights as they come.
    """

    def __init__(self, threads: int, dtype: str, linears: str = "packed") -> None:
        self.device = torch.device("cpu")
        self.staging: Staging = HostStaging()
        self.modes: Modes = OneMode()
        self.capturer: Capturer | None = None
        self._library = library.load()
        self._compiled = self._library is not None and getattr(torch, dtype) in TYPES
        self.functions = Functions(self._library) if self._library is not None else None
        self.kernels = Kernels()
        self.recorder: Recorder | None = None
        if self.functions is not None and self._compiled:
            self.kernels = compiled_kernels(self.functions)
            self.recorder = CpuRecorder(self.functions)
        if linears == "torch":
            self.kernels = replace(self.kernels, packing=None)
        self._threads = threads
        self._torch_threads = 1 if self._compiled and self.kernels.packing is not None else threads

    def attention(self, name: str, shape: AttentionShape) -> AttentionBackend:
        made: dict[str, Callable[[], AttentionBackend]] = {
            "cpu": lambda: PagedAttention(self.functions),
            "torch_native": lambda: SdpaAttention(shape.page_size),
            "reference": ReferenceAttention,
        }
        backend = made[name]()
        if reasons := backend.reasons_against(shape):
            raise StartupError(f"the attention backend {name} cannot serve this model: {'; '.join(reasons)}")
        return backend

    def prepare_thread(self) -> None:
        """Torch's threads would wait for work by spinning, on the cores that the kernels compute on: where torch has
        nothing to multiply it has one.
        """
        if self._compiled and self._library is not None:
            self._library.ramify_threads(self._threads)
        torch.set_num_threads(self._torch_threads)

    def free_bytes(self) -> int:
        return psutil.virtual_memory().available


def make_platform(
    device: str, threads: int, dtype: str, linears: str = "packed", captured: Sequence[int] = ()
) -> Platform:
    """The platform of a resolved `--device`; on a GPU steps of `captured` rows are captured."""
    if torch.device(device).type == "cpu":
        return CpuPlatform(threads, dtype, linears)
    from ramify.ops.cuda.platform import CudaPlatform

    return CudaPlatform(device, linears, captured)
