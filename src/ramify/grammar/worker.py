"""Short jobs on a thread beside the loop. One that takes too long is left behind with its thread, and a new thread
goes on with the others.

The library's fuel does not cover every path: it follows forced text to its end, however many megabytes that is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Job = Callable[[], None]
STARVED = 10  # times its limit that a job may wait for a core, or for whatever it waits


@dataclass(slots=True)
class _Batch:
    """Jobs in order; `at` is the one that runs, `failed` what those before it raised."""

    jobs: Sequence[Job]
    at: int
    failed: dict[int, Exception] = field(default_factory=dict)
    left: bool = False  # nobody waits for it any more
    changing: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> bool:
        """False where the batch was left while a job ran."""
        while self.at < len(self.jobs):
            error = _error_of(self.jobs[self.at])
            with self.changing:
                if self.left:
                    return False
                if error is not None:
                    self.failed[self.at] = error
                self.at += 1
        self.done.set()
        return True

    def leave(self, at: int) -> bool:
        """Give up on job `at`; False if it has just come to an end."""
        with self.changing:
            self.left = self.at == at
        return self.left


class Worker:
    """One caller at a time. Threads are daemons: one that is stuck in a library must not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inbox: queue.SimpleQueue[_Batch | None] | None = None
        self._thread: threading.Thread | None = None

    def run(self, jobs: Sequence[Job], seconds: float, left: Callable[[int], None]) -> dict[int, Exception]:
        """Run all jobs; what failed, by place. A job that computes for `seconds` to twice as long fails with
        `TimeoutError`, and is still running; `left` is told its place before the next begins. Time in which the
        machine lets it wait does not count, up to a limit.
        """
        failed: dict[int, Exception] = {}
        at = 0
        while at < len(jobs):
            batch = _Batch(jobs, at)
            self._open().put(batch)
            lost = self._wait(batch, seconds)
            failed |= batch.failed
            if lost is None:
                break
            failed[lost] = TimeoutError(f"took more than {seconds:g} s")
            left(lost)
            at = lost + 1
        return failed

    def close(self) -> None:
        if self._inbox is not None:
            self._inbox.put(None)
            self._inbox = self._thread = None

    def _wait(self, batch: _Batch, seconds: float) -> int | None:
        """None when all are done, or the place of one that was left behind with its thread."""
        seen, waited, begin = -1, 0, 0.0
        while not batch.done.wait(seconds):
            if batch.at != seen:
                seen, waited, begin = batch.at, 0, self._computed()
                continue
            waited += 1
            if (waited >= STARVED or self._computed() - begin >= seconds) and batch.leave(seen):
                self._inbox = self._thread = None
                return seen
        return None

    def _computed(self) -> float:
        """Seconds that the thread has had a core; of the wall clock where the system does not say."""
        thread = self._thread
        if thread is None or not thread.is_alive() or not hasattr(time, "pthread_getcpuclockid"):
            return time.monotonic()
        assert thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    def _open(self) -> queue.SimpleQueue[_Batch | None]:
        if self._inbox is None:
            self._inbox = queue.SimpleQueue()
            self._thread = threading.Thread(target=_serve, args=(self._inbox,), name=self._name, daemon=True)
            self._thread.start()
        return self._inbox


def _error_of(job: Job) -> Exception | None:
    try:
        job()
    except Exception as e:  # noqa: BLE001  (a job's failure is its own, whatever it is)
        return e
    return None


def _serve(inbox: queue.SimpleQueue[_Batch | None]) -> None:
    while (batch := inbox.get()) is not None and batch.run():
        pass
