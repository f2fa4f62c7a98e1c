"""What adapters cost: the delta of a linear beside the linear, in microseconds, the best of many.

python benchmarks/lora_kernel.py [--threads 2] [--rows 32] [--adapters 8] [--rank 16]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from ramify.ops.cpu.compiled import compiled_kernels
from ramify.ops.cpu.library import instruction_set, load
from ramify.ops.cpu.record import Functions
from ramify.ops.kernels import Kernels
from ramify.ops.lora import LowRank, LowRanks

SHAPES = [(1024, 1024, 1), (2048, 2048, 1), (3072, 3072, 1), (1024, 4096, 3), (1024, 6144, 2), (3072, 1024, 1)]


def best(work: Callable[[], object], seconds: float = 0.4) -> float:
    """Microseconds."""
    work()
    found, until = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < until:
        before = time.perf_counter()
        work()
        found = min(found, time.perf_counter() - before)
    return found * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("threads", 2), ("rows", 32), ("adapters", 8), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    library = load()
    assert library is not None, "the kernels are not compiled in this installation"
    library.ramify_threads(asked.threads)
    torch.set_num_threads(1)
    kernels = compiled_kernels(Functions(library))
    print(f"{instruction_set()}, {asked}")
    print(f"{'type':>9} {'inputs':>6} {'outputs':>7} {'parts':>5} {'linear':>8} {'delta':>8}  share")
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            plain, delta = measured(kernels, dtype, *shape, asked.rows, asked.adapters, asked.rank)
            inputs, outputs, parts = shape
            name = str(dtype).removeprefix("torch.")
            print(f"{name:>9} {inputs:6} {outputs:7} {parts:5} {plain:8.0f} {delta:8.0f}  {delta / plain:5.1%}")


def measured(
    kernels: Kernels, dtype: torch.dtype, inputs: int, outputs: int, parts: int, rows: int, adapters: int, rank: int
) -> tuple[float, float]:
    """Of a linear, and of what adapters that alternate row by row add to it."""
    packing, table, piece = kernels.packing, LowRanks(adapters, parts, dtype), outputs // parts
    assert packing is not None
    x, weight = (torch.randn(size, inputs, dtype=dtype) for size in (rows, outputs))
    packed = packing.pack(weight)
    for slot in range(adapters):
        pairs = [(torch.randn(rank, inputs), torch.randn(piece, rank)) for _ in range(parts)]
        table.put(slot, [LowRank(down, up, 0.1, at * piece) for at, (down, up) in enumerate(pairs)])
    runs = torch.tensor([(row, row + 1, row % adapters) for row in range(rows)], dtype=torch.int32)
    y = torch.zeros(rows, outputs, dtype=dtype)
    return best(lambda: packing.linear(x, packed, outputs, None)), best(lambda: kernels.lora(y, x, runs, table))


if __name__ == "__main__":
    main()
