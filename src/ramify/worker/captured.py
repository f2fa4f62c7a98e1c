"""Runs the model over a batch on a device to which a step of one token a row is given as a whole, once it is captured.

Capturing goes on beside the serving: the first step of a size, and those that come while it is captured, are computed
kernel by kernel. A step has as many rows as one that is captured: spare ones are computed, and nobody looks at them.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from ramify.layers.batch import Batch
from ramify.ops.attention import AttentionBackend
from ramify.ops.modes import Modes
from ramify.ops.recording import Capturer, Recording
from ramify.wire.plan import Row
from ramify.worker.adapters import Adapters
from ramify.worker.forward import Model, lasting_batch, refresh

log = logging.getLogger(__name__)

TRIES = 3  # captures that fail, of whatever size

Kind = tuple[int, bool, bool]  # rows, whether any has an adapter, whether kernels are the invariant ones


@dataclass(frozen=True)
class _Step:
    """`batch` is where the recording reads."""

    batch: Batch
    recording: Future[Recording]


class CapturedForward:
    """Hidden states [T, D] of a batch. They stand until the next one is computed."""

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        capturer: Capturer,
        pages: int,
        adapters: Adapters,
        modes: Modes,
    ) -> None:
        self._model, self._attention, self._pages = model, attention, pages
        self._threads = capturer
        self._capturer: Capturer | None = capturer  # None once it is known to be in vain
        self._adapters, self._modes = adapters, modes
        self._steps: dict[Kind, _Step] = {}
        self._failures = 0

    def spare(self, rows: Sequence[Row]) -> int:
        """How many rows of nobody make a step of these as large as one that is captured."""
        if self._capturer is None or any(row.count > 1 for row in rows):
            return 0
        sizes = self._capturer.sizes
        at = bisect_left(sizes, len(rows))
        return sizes[at] - len(rows) if at < len(sizes) else 0

    def __call__(self, batch: Batch) -> Tensor:
        self._adapters.compute(batch.runs)
        capturer, rows = self._capturer, len(batch.counts)
        if capturer is None or batch.vectors is not None or max(batch.counts) > 1 or rows not in capturer.sizes:
            return self._model(batch)
        if not self._adapters.can_record:
            return self._model(batch)
        kind = (rows, batch.runs is not None, self._modes.invariant)
        if kind not in self._steps:
            return self._first(capturer, kind, batch)
        recording = self._made(kind)
        if recording is None:
            return self._model(batch)
        refresh(self._steps[kind].batch, batch, self._attention)
        return recording()

    def close(self) -> None:
        self._threads.close()

    def _made(self, kind: Kind) -> Recording | None:
        """None while it is captured, and where that failed, for whatever reason: it takes nothing from the steps."""
        future = self._steps[kind].recording
        if not future.done():
            return None
        try:
            return future.result()
        except Exception as e:  # noqa: BLE001  (of another thread, and no step's)
            del self._steps[kind]
            self._failed(e)
            return None

    def _failed(self, why: Exception) -> None:
        """Something else may have disturbed a capture; what fails again and again cannot be captured."""
        self._failures += 1
        if self._failures < TRIES:
            log.info("a step could not be captured, and will be tried again: %s", why)
        else:
            log.warning("steps are not captured any more, which costs time between kernels: %s", why)
            self._capturer = None

    def _first(self, capturer: Capturer, kind: Kind, batch: Batch) -> Tensor:
        """Computed where it will be captured, so that all kernels are there."""
        own = lasting_batch(batch, self._attention, self._pages)
        if own is None:
            self._capturer = None
            return self._model(batch)
        self._adapters.compute(own.runs)
        result = self._model(own)

        def compute() -> Tensor:
            self._adapters.compute(own.runs)
            self._modes.use(kind[2])
            return self._model(own)

        try:
            self._steps[kind] = _Step(own, capturer.begin(compute))
        except RuntimeError as e:  # its thread is gone
            self._failed(e)
        return result
