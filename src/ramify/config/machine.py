"""What this machine has, within the limits that containers set: memory, cores, instructions. Read once, at start."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

from ramify.config.gpu import Gpu

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """`memory` is what is available now, in bytes, within the control group; `cores` may be used at once.

    `kernels` is the instruction set that the compiled kernels use here, None where the installation has none.
    `gpus` are those that somebody wants to compute on.
    """

    memory: int
    cores: int
    bf16: bool  # multiplies bfloat16 in hardware
    name: str = "CPU"
    kernels: str | None = None
    gpus: tuple[Gpu, ...] = ()


def read_machine() -> Machine:
    return Machine(memory=_memory(), cores=_cores(), bf16=_has_bf16(), name=_name())


def _memory() -> int:
    free = int(psutil.virtual_memory().available)
    limit = _number(CGROUP / "memory.max")
    used = _number(CGROUP / "memory.current")
    if limit is None:
        limit = _number(CGROUP / "memory" / "memory.limit_in_bytes")
        used = _number(CGROUP / "memory" / "memory.usage_in_bytes")
    if limit is None or limit >= 1 << 60:
        return free
    return max(min(free, limit - (used or 0) + _reclaimable()), 0)


def _reclaimable() -> int:
    """Page cache that the kernel gives back before it calls memory full."""
    for path in (CGROUP / "memory.stat", CGROUP / "memory" / "memory.stat"):
        if path.is_file():
            fields = dict(line.split() for line in path.read_text().splitlines() if len(line.split()) == 2)
            return int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))
    return 0


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _text(CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(int(quota[0]) // int(quota[1]), 1))
    return cores


def _cpuinfo(key: str) -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.split(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def _has_bf16() -> bool:
    if platform.machine() in ("arm64", "aarch64"):
        return "bf16" in _cpuinfo("Features").split()
    return any(flag in _cpuinfo("flags").split() for flag in ("avx512_bf16", "amx_bf16"))


def _name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
