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
from ramify.ops.recording import CannotRecordError, Capturer, Recording
from ramify.wire.plan import Row
from ramify.worker.adapters import Adapters
from ramify.worker.forward import Model, lasting_batch, refresh

log = logging.getLogger(__name__)

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
        self._capturer: Capturer | None = capturer
        self._adapters, self._modes = adapters, modes
        self._steps: dict[Kind, _Step] = {}

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
        if not self._adapters.can_record:
            return self._model(batch)
        kind = (rows, batch.runs is not None, self._modes.invariant)
        step = self._steps.get(kind)
        if step is None:
            return self._first(capturer, kind, batch)
        if not step.recording.done():
            return self._model(batch)
        try:
            recording = step.recording.result()
        except CannotRecordError as e:
            log.info("steps of this model are not captured, which costs time between kernels: it uses %s", e)
            self._capturer = None
            return self._model(batch)
        refresh(step.batch, batch, self._attention)
        return recording()

    def forget(self) -> None:
        """Weights or pools stand elsewhere now."""
        self._steps.clear()

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

        self._steps[kind] = _Step(own, capturer.begin(compute))
        return result
