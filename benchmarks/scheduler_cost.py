"""What deciding costs: plan + commit per step for many rows that generate, on one core, without a model.

python benchmarks/scheduler_cost.py [--rows 256] [--steps 400]
"""

from __future__ import annotations

import argparse
import statistics
import time

from ramify.cache.ledger import Ledger
from ramify.core.params import SamplingParams
from ramify.schedule.budget import StepBudget
from ramify.schedule.scheduler import Scheduler
from ramify.wire.messages import Submit
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult


def answer(plan: Plan) -> StepResult:
    tickets = [copy.ticket for copy in plan.copies]
    return StepResult(plan.step, [[5] if row.sample else [] for row in plan.rows], {}, tickets, {})


def measure(rows: int, steps: int, page_size: int, waiting: int) -> dict[str, float]:
    """Microseconds per step: median and 99th percentile of plan and of commit."""
    ledger = Ledger(rows * 4096 // page_size, page_size)
    scheduler = Scheduler(ledger, StepBudget(8192, rows), eos_ids=[0])
    for number in range(rows + waiting):
        prompt = [number % 1000 + 1] * 8 + list(range(100, 220))
        scheduler.submit(Submit(f"r{number}", 0, prompt, SamplingParams(), 4000, True, 1))
    while len(scheduler.running) < rows or any(r.is_catching_up for r in scheduler.running):
        plan = scheduler.plan()
        assert plan is not None
        scheduler.commit(plan, answer(plan))
    times: dict[str, list[float]] = {"plan": [], "commit": []}
    for _ in range(steps):
        start = time.perf_counter()
        plan = scheduler.plan()
        middle = time.perf_counter()
        assert plan is not None
        assert len(plan.rows) == rows
        result = answer(plan)
        ready = time.perf_counter()
        scheduler.commit(plan, result)
        times["plan"].append((middle - start) * 1e6)
        times["commit"].append((time.perf_counter() - ready) * 1e6)
    both = sorted(a + b for a, b in zip(times["plan"], times["commit"], strict=True))
    return {
        "plan": statistics.median(times["plan"]),
        "commit": statistics.median(times["commit"]),
        "both": statistics.median(both),
        "p99": both[len(both) * 99 // 100],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    for page_size in (1, 16):
        for waiting in (0, 1000):
            cost = measure(args.rows, args.steps, page_size, waiting)
            print(
                f"{args.rows} rows, {waiting:4d} waiting, page size {page_size:2d}: "
                f"plan {cost['plan']:.0f} us, commit {cost['commit']:.0f} us, both {cost['both']:.0f} us"
                f" (p99 {cost['p99']:.0f})"
            )


if __name__ == "__main__":
    main()
