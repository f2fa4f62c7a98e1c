"""The whole engine: what a shared prefix saves, how long the device waits between steps, what a step costs the host.

    shared prefix   64 users whose prompts begin with the same 4k tokens, the cache on and off
    gaps            of a profiler's trace, the share of time in which the device computes nothing, decoding alone:
                    plain, and with masks, penalties and log probabilities in every row
    host            CPU time of the engine's loop for a step of that many rows: scheduler, messages and replies

Needs what a server needs but HTTP: see README.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from decode_part import SIZES, TINY
from running import Running
from served import Size

GAPS, CPU_BAR = 0.02, 1.0  # a share of the time, and milliseconds
EXTRAS: dict[str, Any] = {
    "logprobs": 5,
    "temperature": 0.8,
    "top_p": 0.9,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
}


@dataclass(frozen=True)
class Load:
    model: Size
    users: int
    shared: int
    own: int
    new: int
    batches: tuple[int, ...]
    context: int


FULL = Load(SIZES["8B"], 64, 4096, 128, 128, (1, 64, 256), 8192)
SMALL = Load(TINY["tiny"], 3, 64, 8, 6, (1, 3), 256)


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    load = SMALL if tiny else FULL
    found = [*shared_prefix(load, device), *between_steps(load, device)]
    for row in found:
        print(row, flush=True)
    return found


def shared_prefix(load: Load, device: torch.device) -> list[dict[str, object]]:
    """`of off`: how much faster than without the cache."""
    rows: list[dict[str, object]] = []
    for reuse in (False, True):
        with Running(load.model, device, load.context, disable_radix_cache=not reuse) as engine:
            engine.warm(load.users, load.own)
            begin = engine.prompt(load.shared, 1)
            played = engine.play([begin + engine.prompt(load.own, 2 + user) for user in range(load.users)], load.new)
        rows.append(
            {
                "what": f"{load.users} users, {load.shared} tokens shared",
                "how": "cache on" if reuse else "cache off",
                "TTFT ms": played.first(0.5),
                "TTFT p99 ms": played.first(0.99),
                "tokens/s": played.rate,
            }
        )
    off, on = rows
    on["of off"] = float(on["tokens/s"]) / float(off["tokens/s"])  # type: ignore[arg-type]
    return rows


def between_steps(load: Load, device: torch.device) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for how in ("plain", "masks, penalties, logprobs"):
        with Running(load.model, device, load.context) as engine:
            if how != "plain":
                engine.guided()
            asked = {} if how == "plain" else EXTRAS
            for users in load.batches:
                engine.warm(users, load.own)
                rows.append({"what": f"decode, {users} users", "how": how, **decoded(engine, load, users, asked)})
    return rows


def decoded(engine: Running, load: Load, users: int, asked: dict[str, Any]) -> dict[str, object]:
    """First without a profiler, which costs time of its own, then its trace of a part of the same."""
    prompts = [engine.prompt(load.own, 1000 + user) for user in range(users)]
    played = engine.play(prompts, load.new, **asked)
    found: dict[str, object] = {
        "tokens/s": played.decode_rate,
        "host ms a step": 1e3 * played.cpu / max(played.steps, 1),
    }
    idle = idle_share(traced(engine, load, prompts, asked))
    if idle is not None:
        found["idle"] = idle
        found["bar"] = "met" if idle < GAPS and float(found["host ms a step"]) < CPU_BAR else "missed"  # type: ignore[arg-type]
    return found


def traced(engine: Running, load: Load, prompts: list[list[int]], asked: dict[str, Any]) -> list[tuple[float, float]]:
    """When the device was busy, in microseconds, while all decode: from a third of the new tokens on."""
    activity = torch.profiler.ProfilerActivity
    seen = activity.CUDA if torch.cuda.is_available() else activity.CPU
    playing = threading.Thread(target=lambda: engine.play(prompts, load.new, **asked))
    began = time.perf_counter()
    engine.play(prompts, load.new, **asked)
    took = time.perf_counter() - began
    playing.start()
    time.sleep(took / 3)
    with torch.profiler.profile(activities=[seen]) as profile:
        time.sleep(took / 3)
    playing.join()
    cuda = torch.autograd.DeviceType.CUDA
    events = [event for event in profile.events() or () if event.device_type == cuda]
    return [(event.time_range.start, event.time_range.end) for event in events]


def idle_share(busy: Iterable[tuple[float, float]]) -> float | None:
    """The part of the time from the first to the last in which nothing is busy; None: nothing ever is."""
    spans = sorted(busy)
    if not spans:
        return None
    first, reached, idle = spans[0][0], spans[0][1], 0.0
    for start, end in spans:
        idle += max(start - reached, 0.0)
        reached = max(reached, end)
    return idle / (reached - first) if reached > first else 0.0
