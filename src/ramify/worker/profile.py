"""Records steps with torch's profiler, and writes a trace that Perfetto and chrome://tracing read."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch.profiler import profile, record_function, supported_activities

from ramify.wire.plan import Plan
from ramify.wire.profile import Profile

log = logging.getLogger(__name__)

NOTHING = nullcontext()
COMPRESSION = 3  # of gzip: a trace is large, and shrinks tenfold already
CHUNK = 1 << 20


class StepProfiler:
    """`run` calls a function on the thread that runs the steps: torch records the thread that began to.

    Everything happens there, except `start` and `stop`, which any thread may call, and writing, which takes longer
    than a step may and has a thread of its own.
    """

    def __init__(self, run: Callable[..., Future[Any]]) -> None:
        self._run = run
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ramify-trace")
        self._asked: Profile | None = None
        self._recording: profile | None = None
        self._left = 0

    def start(self, asked: Profile) -> Future[None]:
        """Begin to record; `ValueError` if it records already."""
        return self._run(self._begin, asked)

    def stop(self) -> Future[str]:
        """Write the trace and give its path; `ValueError` if nothing is recorded."""
        written: Future[str] = Future()
        self._run(self._finish, written).add_done_callback(lambda done: _pass_on(done, written))
        return written

    def forward(self, plan: Plan) -> AbstractContextManager[object]:
        """Around the forward pass of a step."""
        if self._asked is None:
            return NOTHING
        if self._recording is None and plan.step >= self._asked.first:
            self._unharmed(self._record)
        return self._span(f"forward step {plan.step}: {len(plan.rows)} rows, {plan.tokens} tokens")

    def sample(self) -> AbstractContextManager[object]:
        """Around the sampling of a step."""
        return self._span("sample")

    def stepped(self) -> None:
        """A step is done; it may have been the last that was wanted."""
        if self._recording is None:
            return
        self._left -= 1
        if self._left <= 0:
            self._unharmed(lambda: self._finish(Future()))

    def close(self) -> None:
        """No more steps will come. What is being written is written."""
        if self._asked is not None:
            log.warning("a profile was being recorded and is lost: %s", self._asked.path)
        self._writer.shutdown(wait=True)

    def _begin(self, asked: Profile) -> None:
        if self._asked is not None:
            raise ValueError("Profiling is already in progress. Call /stop_profile first.")
        self._asked, self._left = asked, asked.steps
        try:
            if not asked.first:
                self._record()
        except Exception:
            self._asked = self._recording = None
            raise

    def _record(self) -> None:
        asked = self._asked
        assert asked is not None
        self._recording = profile(
            activities=supported_activities(), record_shapes=asked.shapes, with_stack=asked.stack, acc_events=True
        )
        self._recording.start()

    def _finish(self, written: Future[str]) -> None:
        """End the recording; `written` will have the path of its trace."""
        asked, recording = self._asked, self._recording
        self._asked = self._recording = None
        if asked is None:
            raise ValueError("Profiling is not in progress. Call /start_profile first.")
        if recording is None:
            raise ValueError(f"Nothing was recorded: step {asked.first} has not come.")
        recording.stop()
        steps = asked.steps - max(self._left, 0)
        self._writer.submit(_write, recording, asked.path, steps).add_done_callback(
            lambda done: _pass_on(done, written)
        )

    def _unharmed(self, work: Callable[[], object]) -> None:
        """A profile that fails must not take a step with it."""
        try:
            work()
        except Exception:
            self._asked = self._recording = None
            log.exception("the profile failed")

    def _span(self, name: str) -> AbstractContextManager[object]:
        return record_function(name) if self._recording is not None else NOTHING


def _pass_on(done: Future[Any], to: Future[str]) -> None:
    """The result of one future to another; a result of None is none."""
    error = done.exception()
    if error is not None:
        to.set_exception(error)
    elif done.result() is not None:
        to.set_result(done.result())


def _write(recording: profile, path: str, steps: int) -> str:
    """The file appears whole, or not at all."""
    part, packed = Path(f"{path}.part"), Path(f"{path}.part.gz")
    try:
        recording.export_chrome_trace(str(part))
        with part.open("rb") as plain, gzip.open(packed, "wb", COMPRESSION) as small:
            shutil.copyfileobj(plain, small, CHUNK)
        os.replace(packed, path)
    except OSError as e:
        packed.unlink(missing_ok=True)
        log.error("the trace %s cannot be written: %s", path, e)
        raise ValueError(f"the trace cannot be written: {e.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    log.info("the profile of %d steps is in %s", steps, path)
    return path
