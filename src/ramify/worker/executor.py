"""Runs steps in a thread of its own, so that planning and replying go on while the model computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import torch

from ramify.core.errors import DeviceLostError
from ramify.wire.masks import Masks
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult
from ramify.worker.outcome import News, Outcome
from ramify.worker.profile import StepProfiler

# What a device refuses, and then goes on.
HARMLESS = ("out of memory", "invalid configuration", "too many resources")


class StepRunner(Protocol):
    """Who computes a step: `worker.runner.Runner`, or `worker.encode.EncoderRunner`."""

    def forward(self, plan: Plan) -> Any:
        """All but the sampling; what it returns is for `sample`."""

    def sample(self, forwarded: Any, masks: Masks | None = None) -> Outcome: ...

    def learn(self, news: News) -> None:
        """What turned out when an outcome was read."""

    def close(self) -> None:
        """No more steps will come. From another thread."""

    def always(self, plan: Plan) -> None:
        """Only what a plan does whatever becomes of the rest of it."""


class StepSkippedError(Exception):
    """A step before this one failed, and this one was not run."""


class ThreadPending:
    def __init__(self, future: Future[Outcome], learn: Callable[[News], object]) -> None:
        self._future, self._learn = future, learn

    def wait(self) -> StepResult:
        """Whatever is launched after this knows the news. What a device fails at is told by whatever is asked of it
        next, and it takes nothing more from this process.
        """
        try:
            result, news = self._future.result().wait()
        except torch.AcceleratorError as e:
            if any(harmless in str(e) for harmless in HARMLESS):
                raise
            raise DeviceLostError(f"the device failed: {e}") from e
        if news:
            self._learn(news)
        return result


class ThreadExecutor:
    """Forward passes and samplings in the order they were asked for, on one thread.

    `prepare` runs first on that thread: thread counts and inference mode belong to a thread in torch.
    """

    def __init__(self, runner: StepRunner, prepare: Callable[[], None] = lambda: None) -> None:
        self.runner = runner
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ramify-steps", initializer=prepare)
        self.profiler = StepProfiler(self._pool.submit)
        self._launched: dict[int, Future[Any]] = {}
        self._waiting: list[Future[Outcome]] = []
        self._failed = False  # a forward pass raised, and nobody has drained since

    def launch(self, plan: Plan) -> None:
        self._launched[plan.step] = self._pool.submit(self._forward, plan)

    def sample(self, plan: Plan, masks: Masks | None = None) -> ThreadPending:
        forwarded = self._launched.pop(plan.step)
        future = self._pool.submit(self._sample, forwarded, masks)
        self._waiting = [other for other in self._waiting if not other.done()]
        self._waiting.append(future)
        return ThreadPending(future, lambda news: self._pool.submit(self.runner.learn, news))

    def in_turn(self, work: Callable[[], None]) -> Future[None]:
        """Done on the thread of the steps, after what was launched."""
        return self._pool.submit(work)

    def drain(self) -> None:
        """Nothing runs when this returns, and whatever is launched from now on runs again."""
        running: list[Future[Any]] = [*self._launched.values(), *self._waiting]
        wait(running)
        self._launched.clear()
        self._waiting.clear()
        self._failed = False

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.runner.close()
        self.profiler.close()

    def _forward(self, plan: Plan) -> Any:
        """What was queued behind a pass that raised must not run: slots it relies on may lack pages and tokens that the
        failed plan had for them, and it would write through page tables of former tenants.
        """
        with torch.inference_mode(), self.profiler.forward(plan):
            if self._failed:
                self.runner.always(plan)
                raise StepSkippedError(f"step {plan.step} was planned on one that failed")
            try:
                return self.runner.forward(plan)
            except BaseException:
                self._failed = True
                raise

    def _sample(self, forwarded: Future[Any], masks: Masks | None) -> Outcome:
        with torch.inference_mode(), self.profiler.sample():
            outcome = self.runner.sample(forwarded.result(), masks)
        self.profiler.stepped()
        return outcome
