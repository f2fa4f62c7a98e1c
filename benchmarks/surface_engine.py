"""The engine process of `benchmarks/surface.py`: no model, and tokens that tell when they were made.

With STEP seconds above zero a step takes that long, as with a model, and a token's id is the time at which its step
was done, in ticks of 20 microseconds, modulo the vocabulary.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ramify.engine import assemble, process
from ramify.wire.masks import Masks
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult
from ramify.worker.null import NullExecutor

TICK = 20e-6
STEP = float(os.environ.get("SURFACE_STEP", "0"))


class PacedPending:
    def __init__(self, plan: Plan, ready: float, vocab: int) -> None:
        self._plan, self._ready, self._vocab = plan, ready, vocab

    def wait(self) -> StepResult:
        time.sleep(max(0.0, self._ready - time.monotonic()))
        token = int(time.monotonic() / TICK) % self._vocab
        tokens = [[token] if row.sample else [] for row in self._plan.rows]
        return StepResult(self._plan.step, tokens, {}, [copy.ticket for copy in self._plan.copies], {})


class PacedExecutor(NullExecutor):
    _free_at = 0.0

    def sample(self, plan: Plan, masks: Masks | None = None) -> PacedPending:  # type: ignore[override]
        self._free_at = max(self._free_at, time.monotonic()) + STEP
        return PacedPending(plan, self._free_at, self._vocab)


if STEP:
    assemble.make_executor = lambda resolved, progress=None: PacedExecutor(resolved.model.vocab)

if __name__ == "__main__":
    code = process.main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stderr.flush()
    os._exit(code)
