"""What a GPU says of itself, asked by a process of its own: whoever decides imports no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

import msgspec

from ramify.core.errors import StartupError

PROBE = "ramify.ops.cuda.probe"
PATIENCE = 120.0  # seconds for torch's import from a cold disk and a context on the device
MAX_ANSWER = 1 << 16  # bytes
LEAST_CAPABILITY = 80  # Ampere, the first that multiplies bfloat16; kernels are compiled for it and what came after
CUDA = re.compile(r"cuda(?::(\d{1,3}))?")
ON_CPU = "Leave --device out, and the CPU computes."


@dataclass(frozen=True)
class Gpu:
    """One device. `capability` is that of its instructions, 90 for 9.0; `memory` and `free` are bytes, the latter
    beside the context of the process that asked.
    """

    index: int
    name: str
    capability: int
    memory: int
    free: int


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of the probe: about what it was asked for, if it got that far. `why` is what torch said instead."""

    torch: str = ""
    cuda: str | None = None  # what torch was built for
    triton: str | None = None
    count: int = 0
    gpus: list[Gpu] = []
    why: str = ""


def index_of(device: str) -> int | None:
    """The number of a CUDA device, None for what is none."""
    found = CUDA.fullmatch(device)
    return None if found is None else int(found[1] or 0)


def probe(indices: tuple[int, ...], patience: float = PATIENCE) -> tuple[Gpu, ...]:
    """Devices by number; raises `StartupError` for the first thing that is missing."""
    return checked(_ask(indices, patience), indices)


def _ask(indices: tuple[int, ...], patience: float) -> Said:
    command = [sys.executable, "-m", PROBE, *map(str, indices)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise StartupError(f"the GPU did not answer within {patience:.0f} s", f"See nvidia-smi. {ON_CPU}") from None
    return answer_of(done.stdout, done.returncode, done.stderr)


def answer_of(output: bytes, code: int, errors: bytes = b"") -> Said:
    """The last line is the answer: libraries may print before it."""
    lines = output[-MAX_ANSWER:].strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else b"", type=Said)
    except msgspec.MsgspecError:
        ended = errors.decode(errors="replace").strip().splitlines()
        why = f": {ended[-1][:500]}" if ended else ""
        raise StartupError(f"asking the GPU ended with exit code {code}{why}", f"See nvidia-smi. {ON_CPU}") from None


def checked(said: Said, indices: tuple[int, ...]) -> tuple[Gpu, ...]:
    """What was asked for, if kernels can run there."""
    if not said.torch:
        raise StartupError(f"--device cuda needs torch, and there is none: {said.why}", "Install torch.")
    if said.cuda is None:
        raise StartupError(
            f"--device cuda: the torch that is installed ({said.torch}) computes on CPUs alone",
            f"Install a build of torch for CUDA. {ON_CPU}",
        )
    if not said.count:
        why = f": {said.why}" if said.why else ""
        raise StartupError(f"torch finds no NVIDIA GPU, or no driver of one{why}", f"See nvidia-smi. {ON_CPU}")
    missing = [index for index in indices if index >= said.count]
    if missing:
        there = (
            "there is one GPU, cuda:0" if said.count == 1 else f"there are {said.count}, up to cuda:{said.count - 1}"
        )
        raise StartupError(f"there is no cuda:{missing[0]}", f"As torch counts them {there}. See CUDA_VISIBLE_DEVICES.")
    if len(said.gpus) < len(indices):
        raise StartupError(f"a GPU could not be asked: {said.why}", f"See nvidia-smi. {ON_CPU}")
    if said.triton is None:
        raise StartupError("kernels for GPUs need the package triton, which is not installed", "Install triton.")
    for gpu in said.gpus:
        _check_capability(gpu)
    return tuple(said.gpus)


def _check_capability(gpu: Gpu) -> None:
    if gpu.capability < LEAST_CAPABILITY:
        raise StartupError(
            f"cuda:{gpu.index}, a {gpu.name}, has compute capability {gpu.capability / 10:.1f}, and kernels are made "
            f"for {LEAST_CAPABILITY / 10:.1f} and above",
            ON_CPU,
        )
