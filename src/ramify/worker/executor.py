"""Runs steps in a thread of its own, so that planning and replying go on while the model computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from ramify.wire.plan import Plan
from ramify.wire.result import StepResult
from ramify.worker.profile import StepProfiler
from ramify.worker.runner import Forwarded, Runner


class ThreadPending:
    def __init__(self, future: Future[StepResult]) -> None:
        self._future = future

    def wait(self) -> StepResult:
        return self._future.result()


class ThreadExecutor:
    """Forward passes and samplings in the order they were asked for, on one thread.

    `prepare` runs first on that thread: thread counts and inference mode belong to a thread in torch.
    """

    def __init__(self, runner: Runner, prepare: Callable[[], None] = lambda: None) -> None:
        self._runner = runner
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ramify-steps", initializer=prepare)
        self.profiler = StepProfiler(self._pool.submit)
        self._launched: dict[int, Future[Forwarded]] = {}
        self._waiting: list[Future[StepResult]] = []

    def launch(self, plan: Plan) -> None:
        self._launched[plan.step] = self._pool.submit(self._forward, plan)

    def sample(self, plan: Plan, constraints: object = None) -> ThreadPending:
        forwarded = self._launched.pop(plan.step)
        future = self._pool.submit(self._sample, forwarded, constraints)
        self._waiting = [other for other in self._waiting if not other.done()]
        self._waiting.append(future)
        return ThreadPending(future)

    def drain(self) -> None:
        """Nothing runs when this returns. What was queued behind the error has run for nothing, which keeps the slots
        in step with the plans.
        """
        running: list[Future[Any]] = [*self._launched.values(), *self._waiting]
        wait(running)
        self._launched.clear()
        self._waiting.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.profiler.close()

    def _forward(self, plan: Plan) -> Forwarded:
        with torch.inference_mode(), self.profiler.forward(plan):
            return self._runner.forward(plan)

    def _sample(self, forwarded: Future[Forwarded], constraints: object) -> StepResult:
        with torch.inference_mode(), self.profiler.sample():
            result = self._runner.sample(forwarded.result(), constraints)
        self.profiler.stepped()
        return result
