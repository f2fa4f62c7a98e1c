"""Compiles kernels for GPUs that are not there, with the arguments of calls that would have launched them.

`python tests/triton/ahead.py 80 90 100` prints a line for each kernel: registers, bytes spilled and shared memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import triton

NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
    torch.float8_e4m3fn: "fp8e4nv",
}
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True)
class Launch:
    """A kernel and what it was called with."""

    function: JITFunction
    arguments: dict[str, Any]
    options: dict[str, int]

    def source(self) -> ASTSource:
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.function.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or (isinstance(value, int) and value == 1):
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            signature[parameter.name] = _type(value)
            if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        return ASTSource(self.function, signature, constants, attributes)

    def compiled(self, capability: int) -> Any:
        return triton.compile(self.source(), target=GPUTarget("cuda", capability, 32), options=self.options)

    @property
    def name(self) -> str:
        return self.function.__name__


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + NAMES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int), value
    return "i64" if value >= 1 << 31 else "i32"


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """What is launched inside is written down and not computed."""
    launches: list[Launch] = []
    run = JITFunction.run

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        names = [parameter.name for parameter in self.params]
        launches.append(Launch(self, {**dict(zip(names, args, strict=False)), **kwargs}, options))

    JITFunction.run = record  # type: ignore[method-assign]
    try:
        yield launches
    finally:
        JITFunction.run = run  # type: ignore[method-assign]


def resources(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return " ".join(re.findall(r"\b(?:REG|STACK|SHARED|LOCAL):\d+", said.stdout))


def instructions(ptx: str) -> str:
    """Which matrix instructions there are."""
    kinds = ("wgmma.mma_async", "tcgen05.mma", "mma.sync")
    return " ".join(f"{kind} x{ptx.count(kind)}" for kind in kinds if kind in ptx)


def main(capabilities: list[int], wanted: list[str]) -> None:
    from calls import CALLS, NEEDS_FP8

    for label, call in CALLS.items():
        if wanted and not any(part in label for part in wanted):
            continue
        for launch in launches_of(call):
            for capability in capabilities:
                if "fp8" in label and capability < NEEDS_FP8:
                    continue
                made = launch.compiled(capability)
                print(
                    f"{label:28} {launch.name:20} sm_{capability} {resources(made.asm['cubin'])} "
                    f"dynamic shared {made.metadata.shared} {instructions(made.asm['ptx'])}",
                    flush=True,
                )


def launches_of(call: Callable[[], object]) -> list[Launch]:
    """One of each kind: those that would be compiled alike are one."""
    with recorded() as launches:
        call()
    return list({launch.source().hash() + str(launch.options): launch for launch in launches}.values())


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:] if each.isdigit()], [each for each in sys.argv[1:] if not each.isdigit()])
