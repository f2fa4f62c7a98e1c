"""The seam for platforms with two sets of kernels, see `schedule.mode`."""

from __future__ import annotations

from typing import Protocol


class Modes(Protocol):
    """Which set this thread computes with from now on. Threads know nothing of each other."""

    @property
    def invariant(self) -> bool: ...

    def use(self, invariant: bool) -> None: ...


class OneMode:
    """There is one set, whatever is asked for."""

    invariant = False

    def use(self, invariant: bool) -> None: ...
