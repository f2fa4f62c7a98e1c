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
    assert kernels.packing is not None
    print(f"{instruction_set()}, {asked}")
    print(f"{'type':>9} {'inputs':>6} {'outputs':>7} {'parts':>5} {'linear':>8} {'delta':>8}  share")
    for dtype in (torch.bfloat16, torch.float32):
        for inputs, outputs, parts in SHAPES:
            x, weight = (torch.randn(size, inputs, dtype=dtype) for size in (asked.rows, outputs))
            packed, table = kernels.packing.pack(weight), LowRanks(asked.adapters, parts, dtype)
            for slot in range(asked.adapters):
                down = [torch.randn(asked.rank, inputs) for _ in range(parts)]
                up, piece = torch.randn(outputs // parts, asked.rank), outputs // parts
                table.put(slot, [LowRank(one, up, 0.1, at * piece) for at, one in enumerate(down)])
            rows = [(row, row + 1, row % asked.adapters) for row in range(asked.rows)]
            runs, y = torch.tensor(rows, dtype=torch.int32), torch.zeros(asked.rows, outputs, dtype=dtype)
            plain = best(lambda x=x, packed=packed, n=outputs: kernels.packing.linear(x, packed, n, None))
            delta = best(lambda y=y, x=x, runs=runs, table=table: kernels.lora(y, x, runs, table))
            name = str(dtype).removeprefix("torch.")
            print(f"{name:>9} {inputs:6} {outputs:7} {parts:5} {plain:8.0f} {delta:8.0f}  {delta / plain:5.1%}")


if __name__ == "__main__":
    main()
