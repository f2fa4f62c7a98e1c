"""Where the time of a step goes: `python benchmarks/step.py [MODEL] [--setting NAME=VALUE ...]`.

Every call of the compiled library is timed, linears by inputs and outputs. For this, steps are computed kernel by
kernel, and "between kernels" is what Python and torch take. "The same step, recorded" is as serving makes it: from C.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ramify.config.read import overlay
from ramify.config.resolve import Resolved
from ramify.config.settings import Settings
from ramify.core.params import SamplingParams
from ramify.engine.assemble import make_runner
from ramify.engine.build import prepare
from ramify.ops.cpu.library import SIGNATURES
from ramify.ops.cpu.record import Functions
from ramify.ops.platform import CpuPlatform
from ramify.wire.plan import Grant, Opened, Plan, Row
from ramify.worker.runner import Runner

STEPS = 15


class Clock:
    """Seconds in each function of the library, by what `names` calls it."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.spent: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    @contextmanager
    def running(self) -> Iterator[None]:
        for name in SIGNATURES:
            setattr(self._functions, name, self._timed(name, getattr(self._functions.library, name)))
        try:
            yield
        finally:
            self._functions.watch(None)

    def _timed(self, name: str, function: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any) -> None:
            begin = time.perf_counter()
            function(*arguments)
            key = name.removeprefix("ramify_") + self._shape(name, arguments)
            self.spent[key] += time.perf_counter() - begin
            self.calls[key] += 1

        return timed

    def _shape(self, name: str, arguments: tuple[Any, ...]) -> str:
        if name in ("ramify_linear", "ramify_linear_int8", "ramify_linear_int4"):
            return f" {arguments[6]} x {arguments[7]}"
        return ""


class Requests:
    """Rows that all have computed a prompt."""

    def __init__(self, runner: Runner, resolved: Resolved, rows: int, length: int) -> None:
        self.runner, self.rows, self.step = runner, rows, 0
        size = resolved.page_size
        each = -(-(length + 4 * STEPS) // size)
        tokens = torch.randint(3, resolved.model.vocab - 1, (rows, length)).tolist()
        for row in range(rows):
            opened = Opened(row, 1, tokens[row], length, 0, SamplingParams(temperature=0.0), 0)
            grants = [
                Grant(row, group, list(range(1 + row * each, 1 + (row + 1) * each)))
                for group in range(len(runner.pool.pools))
            ]
            for first in range(0, length, resolved.chunk):
                count = min(resolved.chunk, length - first)
                new = ([opened], grants) if not first else ([], [])
                self.compute([Row(row, 1, count, first + count == length)], *new)

    def compute(self, rows: list[Row], opened: list[Opened] | None = None, grants: list[Grant] | None = None) -> None:
        self.step += 1
        self.runner.sample(self.runner.forward(Plan(self.step, rows, opened or [], grants or [], [], [])))

    def decode(self) -> None:
        self.compute([Row(row, 1, 1, True) for row in range(self.rows)])

    def close(self) -> None:
        self.step += 1
        self.runner.forward(Plan(self.step, [], [], [], [], list(range(self.rows))))


def median_ms(step: Callable[[], None], steps: int) -> float:
    step()
    found = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        found.append(time.perf_counter() - begin)
    return statistics.median(found) * 1e3


def look(title: str, platform: CpuPlatform, step: Callable[[], None], recorded: float | None, steps: int) -> Table:
    """`recorded`: milliseconds of the step where it is made again."""
    assert platform.functions is not None
    clock = Clock(platform.functions)
    step()
    begin = time.perf_counter()
    with clock.running():
        for _ in range(steps):
            step()
    whole = (time.perf_counter() - begin) / steps * 1e3
    table = Table(title=title, title_justify="left")
    for name in ("kernel", "calls", "ms", "share"):
        table.add_column(name, justify="left" if name == "kernel" else "right")
    spent = {key: seconds / steps * 1e3 for key, seconds in clock.spent.items()}
    for key, ms in sorted(spent.items(), key=lambda item: -item[1]):
        table.add_row(key, str(clock.calls[key] // steps), f"{ms:.2f}", f"{ms / whole:.1%}")
    rest = whole - sum(spent.values())
    table.add_row("between kernels", "", f"{rest:.2f}", f"{rest / whole:.1%}")
    table.add_row("the step", "", f"{whole:.2f}", "100%", style="bold")
    if recorded is not None:
        table.add_row("the same step, recorded", "", f"{recorded:.2f}", f"{recorded / whole:.1%}")
    return table


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("build/peers/model"))
    parser.add_argument("--setting", nargs="*", default=[], help="of the engine, as quantization=w8a8")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--prefill", type=int, default=512)
    options = parser.parse_args()
    given = dict(part.split("=", 1) for part in options.setting)
    room = {"max_total_tokens": 40 * (128 + 8 * STEPS), "chunked_prefill_size": options.prefill}
    resolved = prepare(overlay(Settings(), {"model_path": str(options.model), **room, **given}, "step"))
    platform = CpuPlatform(resolved.threads, resolved.dtype, resolved.linears)
    assert platform.functions is not None, "this looks at the compiled kernels: see `ramify doctor`"
    platform.prepare_thread()
    fast = make_runner(resolved, platform)
    assert isinstance(fast, Runner), "this is for models that generate"
    plain = Runner(fast.model, fast.pool, fast.slots, fast.attention, platform.kernels)
    console = Console()
    for rows in options.rows:
        requests = Requests(plain, resolved, rows, 128)
        requests.runner = fast
        recorded = median_ms(requests.decode, STEPS)
        requests.runner = plain
        console.print(look(f"decode, {rows} rows", platform, requests.decode, recorded, STEPS))
        requests.close()

    def prefill() -> None:
        Requests(plain, resolved, 1, options.prefill).close()

    console.print(look(f"prefill, {options.prefill} tokens", platform, prefill, None, 3))


if __name__ == "__main__":
    main()
