"""The seams for steps that differ from earlier ones in their numbers only: recorded once, made again as one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from torch import Tensor


class CannotRecordError(Exception):
    """What was to be recorded does something that depends on numbers, not on shapes alone."""


class Recording(Protocol):
    """What a computation did, over the same memory: inputs are read where they stood, the result is written there."""

    def __call__(self) -> Tensor: ...


class Recorder(Protocol):
    """Of a platform on which to record is to compute: a step of any size, when it comes for the first time."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Recording]:
        """Run `compute` once: its result, which stands where that of the recording will, and what it did.

        Raises `CannotRecordError`; nothing is kept then.
        """


class Capturer(Protocol):
    """Of a platform on which to record takes long and computes nothing: it is done beside the steps, for a few numbers
    of rows, `sizes`, ascending.
    """

    sizes: Sequence[int]

    def begin(self, compute: Callable[[], Tensor]) -> Future[Recording]:
        """Run `compute` on a thread of its own. Its kernels ran before, on this one. What recordings give stands until
        the next is made again. The future may raise `CannotRecordError`.
        """

    def close(self) -> None:
        """Nothing is recorded after this."""
