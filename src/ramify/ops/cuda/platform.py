"""NVIDIA GPUs: kernels in Triton, linears by cuBLAS or in Triton. Not yet run on one: see docs/performance.md."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from ramify.core.errors import StartupError
from ramify.ops.attention import AttentionBackend, AttentionShape
from ramify.ops.cuda.record import CudaRecorder
from ramify.ops.recording import Recorder
from ramify.ops.reference.attention import ReferenceAttention

log = logging.getLogger(__name__)


class CudaPlatform:
    """`device` is `cuda` or `cuda:N`. With `linears` triton a row's bits do not depend on its batch; with torch, cuBLAS
    multiplies.
    """

    def __init__(self, device: str, linears: str = "torch") -> None:
        if not torch.cuda.is_available():
            raise StartupError("torch finds no CUDA device here", "Leave --device out, and the CPU computes.")
        try:
            from ramify.ops.triton.kernels import left_to_torch, triton_kernels
        except ModuleNotFoundError as e:
            raise StartupError(f"kernels for GPUs need the package {e.name}", "Install triton.") from None
        self.device = torch.device(device)
        self.recorder: Recorder | None = CudaRecorder(self.device)
        self.kernels = triton_kernels(invariant=linears == "triton")
        log.info("computed by plain torch, without a kernel of their own: %s", ", ".join(left_to_torch(self.kernels)))

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
        free, _ = torch.cuda.mem_get_info(self.device)
        return free
