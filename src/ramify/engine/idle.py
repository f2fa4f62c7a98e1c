"""Notices that an engine has had nothing to do for a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class Idle:
    """Calls `tell` when nothing was needed for `seconds`, and again after as long; never, where `seconds` is None."""

    def __init__(
        self,
        seconds: float | None,
        tell: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._tell, self._clock = seconds, tell, clock
        self._since: float | None = None  # before the first look, which comes after loading

    def look(self, is_needed: Callable[[], bool]) -> None:
        """Once per step, and when `patience` is over."""
        if self._seconds is None:
            return
        now = self._clock()
        if self._since is None or is_needed():
            self._since = now
        elif now - self._since >= self._seconds:
            self._since = now
            self._tell()

    def patience(self) -> float | None:
        """Seconds until a look is due though nothing happens; None: never."""
        if self._seconds is None:
            return None
        if self._since is None:
            return 0.0
        return max(self._since + self._seconds - self._clock(), 0.0)
