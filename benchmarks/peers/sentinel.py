"""What the machine gives at this moment, to be seen beside every sample, and its best, to hold the samples against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ramify.ops.kernels import Packing
from ramify.ops.platform import make_platform

GEMM = (512, 1024, 3072)  # rows, inputs, outputs
SHAPES = ((1024, 4096), (1024, 6144), (2048, 1024), (3072, 1024))  # the model's linears: inputs, outputs
READ = 256 << 20  # bytes, far above any cache
ROWS = 512
REPEATS = 3


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few."""
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


class Sentinel:
    """A fixed product of matrices in float32 and a fixed read, by torch, on all threads."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        rows, inputs, outputs = GEMM
        self._x, self._w = torch.randn(rows, inputs), torch.randn(inputs, outputs)
        self._data = torch.ones(READ // 4)

    def look(self) -> dict[str, float]:
        flops = 2 * GEMM[0] * GEMM[1] * GEMM[2]
        return {
            "gemm_gflops": flops / best(lambda: self._x @ self._w) / 1e9,
            "read_gb_s": READ / best(self._data.sum) / 1e9,
        }


def product_rate(linear: Callable[[torch.Tensor, torch.Tensor], Callable[[], object]], dtype: torch.dtype) -> float:
    """GFLOP/s over the model's linears at 512 rows; `linear` makes of input and weight what is to be timed."""
    flops = seconds = 0.0
    for inputs, outputs in SHAPES:
        x, w = torch.randn(ROWS, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        flops += 2 * ROWS * inputs * outputs
        seconds += best(linear(x, w))
    return flops / seconds / 1e9


def torch_linear(x: torch.Tensor, w: torch.Tensor) -> Callable[[], object]:
    return lambda: torch.nn.functional.linear(x, w)


def packed_linear(packing: Packing) -> Callable[[torch.Tensor, torch.Tensor], Callable[[], object]]:
    def linear(x: torch.Tensor, w: torch.Tensor) -> Callable[[], object]:
        packed = packing.pack(w)
        return lambda: packing.linear(x, packed, w.shape[0], None)

    return linear


def ceilings(threads: int) -> dict[str, float]:
    """The best rates that are to be had: GFLOP/s on the model's linears, and GB/s of reading memory, by several ways.

    Ramify's kernels are one of them. A peer may have better ones, and then stands above the roof.
    """
    platform = make_platform("cpu", threads, "bfloat16")
    platform.prepare_thread()
    found = {}
    if packing := platform.kernels.packing:
        found["gemm_ramify_bf16"] = product_rate(packed_linear(packing), torch.bfloat16)
    torch.set_num_threads(threads)
    found["gemm_torch_fp32"] = product_rate(torch_linear, torch.float32)
    found["gemm_torch_bf16"] = product_rate(torch_linear, torch.bfloat16)
    data = torch.ones(READ // 4)
    square = data.view(1 << 13, -1)
    found["read_sum"] = READ / best(data.sum) / 1e9
    found["read_gemv"] = READ / best(lambda: square @ data[: square.shape[1]]) / 1e9
    return found
