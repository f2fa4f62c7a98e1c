"""`ramify doctor`: is this machine fit, is this installation whole, and what would make it faster."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import ramify
from ramify.cli.line import describe, take
from ramify.config.machine import Machine, read_machine
from ramify.config.source import bundled_model
from ramify.core.errors import RamifyError, UsageError
from ramify.ops.cpu.library import MULTIPLYING_BF16, MULTIPLYING_BYTES, instruction_set

GIB = 1 << 30
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyzmq", "starlette", "uvicorn", "msgspec")
OPTIONAL = {"uvloop": "a faster event loop", "httptools": "a faster HTTP parser", "rich": "progress bars and tables"}


@dataclass(frozen=True)
class Finding:
    """`mark` is "ok", "note" or "bad"; a bad one makes the doctor's exit status 1."""

    mark: str
    subject: str
    text: str


def doctor(arguments: list[str]) -> int:
    line = take(arguments, ())
    if line.help:
        print(describe("ramify doctor", "Look at this machine and this installation.", ()))
        return 0
    if line.words:
        raise UsageError(f"the doctor looks at this machine and takes no {line.words[0]!r}")
    machine = read_machine()
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _python(),
        lambda: _machine(machine),
        lambda: _packages(),
        lambda: _hub(),
        lambda: _speed(machine),
        lambda: _model(),
    ]
    findings = [_print(finding) for check in checks for finding in check()]
    return 1 if any(finding.mark == "bad" for finding in findings) else 0


def _print(finding: Finding) -> Finding:
    print(f"{finding.mark:>4}  {finding.subject:<12} {finding.text}", flush=True)
    return finding


def _python() -> Iterator[Finding]:
    yield Finding("ok", "ramify", ramify.__version__)
    good = sys.version_info >= (3, 11)
    yield Finding("ok" if good else "bad", "python", f"{platform.python_version()} on {platform.platform()}")


def _machine(machine: Machine) -> Iterator[Finding]:
    yield Finding("ok", "processor", f"{machine.name}, {machine.cores} cores for this process")
    enough = machine.memory > 2 * GIB
    yield Finding("ok" if enough else "note", "memory", f"{machine.memory / GIB:.1f} GiB available")
    kernels = instruction_set()
    if kernels is not None:
        yield Finding("ok", "kernels", f"compiled, and use {kernels}")
    else:
        compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
        remedy = "install ramify again" if compiler else "install a C++ compiler, then ramify again"
        yield Finding(
            "note", "kernels", f"not compiled: torch computes, slower and with bits that depend on the batch; {remedy}"
        )
    if kernels is None:
        yield Finding("note", "quantization", "--quantization is computed by plain torch here, to save memory alone")
    else:
        how = "by an instruction of their own" if kernels in MULTIPLYING_BYTES else "in 16 bits, exactly"
        yield Finding("ok", "quantization", f"w8a8 and int4 by compiled kernels, which multiply int8 {how}")
    if machine.bf16 or kernels is not None:
        multiplied = machine.bf16 if kernels is None else kernels in MULTIPLYING_BF16
        yield Finding(
            "ok", "bfloat16", "multiplied in hardware" if multiplied else "read as it is, multiplied in float32"
        )
    else:
        yield Finding("note", "bfloat16", "not multiplied in hardware: bf16 checkpoints are computed in float32")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("bad", name, f"missing: pip install {name}")
    for name, use in OPTIONAL.items():
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("note", name, f"missing, it would be {use}: pip install {name}")


def _hub() -> Iterator[Finding]:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    yield Finding("ok", "hub", f"cache in {home}{', offline' if offline else ''}")


def _speed(machine: Machine) -> Iterator[Finding]:
    """Two numbers that explain most of what a CPU can do: arithmetic for prompts, memory for answers."""
    import torch

    torch.set_num_threads(machine.cores)
    weight, rows = torch.randn(2048, 2048), torch.randn(256, 2048)
    flops = _rate(lambda: torch.nn.functional.linear(rows, weight)) * 2 * 256 * 2048 * 2048
    large = torch.ones(64 << 20, dtype=torch.float32)
    read = _rate(lambda: large.sum()) * large.nbytes
    yield Finding("ok", "speed", f"{flops / 1e9:.0f} GFLOP/s in float32, memory read at {read / 1e9:.0f} GB/s (rough)")


def _rate(work: Callable[[], object], seconds: float = 0.5) -> float:
    """Calls per second, after one to warm up."""
    work()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        calls += 1
    return calls / (time.perf_counter() - start)


def _model() -> Iterator[Finding]:
    """The bundled model generates."""
    if not (bundled_model() / "config.json").is_file():
        yield Finding("bad", "model", "the bundled model is missing from this installation")
        return
    from ramify.engine.engine import Engine

    start = time.monotonic()
    try:
        with Engine(max_total_tokens=1024, max_running_requests=1) as engine:
            output = engine.generate("Hello", {"max_new_tokens": 8, "temperature": 0})
    except RamifyError as e:
        yield Finding("bad", "model", f"the bundled model does not run: {e}")
        return
    tokens = len(output["output_ids"])
    yield Finding(
        "ok", "model", f"the bundled model loads and generates ({tokens} tokens, {time.monotonic() - start:.1f} s)"
    )
