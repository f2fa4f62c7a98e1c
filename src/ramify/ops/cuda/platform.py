"""NVIDIA GPUs: kernels in Triton, linears by cuBLAS or in Triton. Not yet run on one: see docs/performance.md."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ramify.core.errors import StartupError
from ramify.ops.attention import AttentionBackend, AttentionShape
from ramify.ops.cuda.modes import TwoModes, either
from ramify.ops.cuda.record import CudaCapturer
from ramify.ops.cuda.staging import CudaStaging
from ramify.ops.modes import Modes, OneMode
from ramify.ops.recording import Capturer, Recorder
from ramify.ops.reference import basic
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.staging import Staging

log = logging.getLogger(__name__)


class CudaPlatform:
    """`device` is `cuda` or `cuda:N`. With `linears` triton a row's bits do not depend on its batch; with torch, cuBLAS
    multiplies, but in steps that are to be invariant. Steps of `captured` rows are captured.
    """

    def __init__(self, device: str, linears: str = "torch", captured: Sequence[int] = ()) -> None:
        if not torch.cuda.is_available():
            raise StartupError("torch finds no CUDA device here", "Leave --device out, and the CPU computes.")
        try:
            from ramify.ops.triton.kernels import left_to_torch, triton_kernels
            from ramify.ops.triton.tiles import tuned_tiles
        except ModuleNotFoundError as e:
            raise StartupError(f"kernels for GPUs need the package {e.name}", "Install triton.") from None
        self.device = torch.device(device)
        self.staging: Staging = CudaStaging(self.device)
        self.recorder: Recorder | None = None
        self.capturer: Capturer | None = CudaCapturer(self.device, captured) if captured else None
        self.kernels = triton_kernels(invariant=True, tiles=tuned_tiles(torch.cuda.get_device_name(self.device)))
        self.modes: Modes = OneMode()
        if linears == "torch":
            self.modes = modes = TwoModes()
            self.kernels = replace(self.kernels, linear=either(modes, self.kernels.linear, basic.linear))
        if left := left_to_torch(self.kernels):
            log.info("computed by plain torch, without a kernel of their own: %s", ", ".join(left))

    def attention(self, name: str, shape: AttentionShape) -> AttentionBackend:
        from ramify.ops.cuda.flash import FlashAttention3
        from ramify.ops.cuda.flashinfer import FlashInferAttention
        from ramify.ops.triton.attention import TritonAttention

        made: dict[str, Callable[[], AttentionBackend]] = {
            "triton": lambda: TritonAttention(shape, self.device),
            "flashinfer": lambda: FlashInferAttention(shape, self.device),
            "fa3": lambda: FlashAttention3(shape, self.device),
            "reference": ReferenceAttention,
        }
        backend = made[name]()
        if reasons := backend.reasons_against(shape):
            raise StartupError(f"the attention backend {name} cannot serve this model: {'; '.join(reasons)}")
        return backend

    def prepare_thread(self) -> None:
        """Torch keeps the device in use for each thread."""
        torch.cuda.set_device(self.device)

    def free_bytes(self) -> int:
        """With what torch holds and nobody uses, which it gives out again."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
