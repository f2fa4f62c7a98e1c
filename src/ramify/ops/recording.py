"""The seam for steps that differ from earlier ones in their numbers only: recorded once, and made again as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class CannotRecordError(Exception):
    """What was to be recorded does something that depends on numbers, not on shapes alone."""


class Recording(Protocol):
    """What a computation did, over the same memory: inputs are read where they stood, the result is written there."""

    def __call__(self) -> Tensor: ...


class Recorder(Protocol):
    """Of a platform."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Recording]:
        """Run `compute` once: its result, which stands where that of the recording will, and what it did.

        Raises `CannotRecordError`; nothing is kept then.
        """
