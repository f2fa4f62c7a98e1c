"""When an engine is started, let go, started again and given up: the parent's mind about one model, without hands.

asleep ──wanted──→ starting ──ready──→ ready ──idle──→ leaving ──every worker lets go, ended──→ asleep
   ↑                  │                  │ ↑              │
   └─a lazy one fails─┘                  │ └─one holds on─┘
                      └──ended by itself─┴──→ resting ──→ starting        too often: given up
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from ramify.wire.notices import Phase

log = logging.getLogger(__name__)

MOST_ENDS, WINDOW = 5, 600.0  # engines that ended by themselves, within so many seconds, after which it is given up
LONGEST_END = 30.0  # seconds that an engine may take to end when it is told to
FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds before a new start; each rest is twice the one before


class Hands(Protocol):
    """What a keeper has done, by whoever owns processes and pipes."""

    def start(self, number: int) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def publish(self) -> None:
        """Tell every API worker about `phase`, `number` and `why`."""


class Keeper:
    """One model's engine. `lazy`: it is started when it is wanted, and a server may run without. `workers` is how many
    API workers there are.
    """

    def __init__(
        self, name: str, hands: Hands, *, lazy: bool, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.lazy = name, lazy
        self.phase: Phase = "asleep"
        self.number = 0  # of the start
        self.why = ""
        self.proved = False  # it was ready once
        self.due: float | None = None  # when `tick` has something to do
        self._hands, self._clock, self._workers = hands, clock, workers
        self._ends: list[float] = []
        self._not_before = 0.0
        self._holding: set[int] = set()  # workers that have not let it go
        self._ending = False  # it was told to stop
        self._wanted = False  # meanwhile

    def begin(self) -> None:
        """The server starts."""
        if not self.lazy:
            self._start()

    @property
    def must_start(self) -> bool:
        """Without it the server does not begin."""
        return not self.lazy and not self.proved

    def want(self) -> None:
        if self.phase == "asleep" and self._clock() >= self._not_before:
            self._start()
        elif self.phase == "asleep":
            self._rest(self._not_before, self.why)
        elif self.phase == "leaving" and not self._ending:
            self._become("ready")
        elif self.phase == "leaving":
            self._wanted = True

    def ready(self, number: int) -> None:
        if number == self.number and self.phase == "starting":
            self.proved = True
            self._become("ready")

    def idle(self, number: int | None = None) -> None:
        """It can go as soon as nobody holds it. Without a number, whichever it is."""
        if self.phase == "ready" and number in (None, self.number):
            self._holding = set(range(self._workers))
            self._become("leaving")

    def let_go(self, origin: int, number: int, free: bool) -> None:
        """A worker's answer. One that holds on keeps the engine for all."""
        if self.phase != "leaving" or number != self.number or self._ending:
            return
        if not free:
            self._become("ready")
            return
        self._holding.discard(origin)
        if not self._holding:
            self._ending, self.due = True, self._clock() + LONGEST_END
            self._hands.stop()

    def ended(self, why: str) -> None:
        """Its process is gone."""
        if self._ending:
            self._become("asleep")
            if self._wanted:
                self._start()
            return
        now = self._clock()
        failed = self.phase == "starting"
        self._ends = [at for at in self._ends if now - at < WINDOW] + [now]
        self._not_before = now + min(FIRST_REST * 2 ** (len(self._ends) - 1), LONGEST_REST)
        if len(self._ends) > MOST_ENDS:
            log.error("the engine of %s ended %d times within %g s and is given up", self.name, len(self._ends), WINDOW)
            self._become("given up", f"it ended {len(self._ends)} times within {WINDOW:g} s, the last time: {why}")
        elif failed and self.lazy:
            self._become("asleep", why)
        else:
            self._rest(self._not_before, why)

    def tick(self) -> None:
        """What is due: a start, or to end what does not end."""
        if self.due is None or self._clock() < self.due:
            return
        if self._ending:
            self.due = None
            self._hands.kill()
        else:
            self._start()

    def _start(self) -> None:
        self.number += 1
        self._wanted = False
        self._hands.start(self.number)
        self._become("starting")

    def _rest(self, until: float, why: str) -> None:
        self._become("resting", why)
        self.due = until
        log.warning("the engine of %s is started again in %.1f s", self.name, max(until - self._clock(), 0))

    def _become(self, phase: Phase, why: str = "") -> None:
        self.phase, self.why, self.due = phase, why, None
        if phase != "leaving":
            self._ending = False
        self._hands.publish()
