"""Runs the model over a batch. Steps that differ in their numbers alone are recorded once and made again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ramify.layers.batch import Batch, Place
from ramify.ops.attention import AttentionBackend
from ramify.ops.recording import CannotRecordError, Recorder, Recording
from ramify.wire.plan import Row
from ramify.worker.adapters import Adapters, NoAdapters

log = logging.getLogger(__name__)

MOST_ROWS = 64  # of a recorded step: with more the kernels take so long that what is between them does not matter


class Model(Protocol):
    """What the worker asks of a model: see `models.llama.Llama`. `__call__` may look at the shapes in a batch, and not
    at the numbers, in Python. Ways to look are noticed when a step is recorded, and then nothing is.
    """

    def __call__(self, batch: Batch, /) -> Tensor: ...

    def logits(self, x_TD: Tensor) -> Tensor: ...


class Forward:
    """Hidden states [T, D] of a batch. They stand until the next one is computed."""

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        recorder: Recorder | None,
        pages: int,
        adapters: Adapters | None = None,
    ) -> None:
        self._model, self._attention, self._recorder, self._pages = model, attention, recorder, pages
        self._adapters = adapters or NoAdapters()
        self._recorded: dict[tuple[int, bool], _Step] = {}  # by the number of rows, and whether any has an adapter

    def spare(self, rows: Sequence[Row]) -> int:
        """Steps of every size are recorded."""
        return 0

    def __call__(self, batch: Batch) -> Tensor:
        rows = len(batch.counts)
        self._adapters.compute(batch.runs)
        if self._recorder is None or batch.vectors is not None or rows > MOST_ROWS or max(batch.counts) > 1:
            return self._model(batch)
        if not self._adapters.can_record:
            return self._model(batch)
        step = self._recorded.get((rows, batch.runs is not None))
        if step is None:
            return self._record(self._recorder, batch)
        refresh(step.batch, batch, self._attention)
        return step.recording()

    def close(self) -> None: ...

    def _record(self, recorder: Recorder, batch: Batch) -> Tensor:
        own = lasting_batch(batch, self._attention, self._pages)
        if own is None:
            self._recorder = None
            return self._model(batch)
        self._adapters.compute(own.runs)
        restore = _nothing if self._recorded else _restoring(batch)  # where one step could be, so can the others
        try:
            result, recording = recorder.record(lambda: self._model(own))
        except CannotRecordError as e:
            log.info("steps of this model are not recorded, which costs time between kernels: it uses %s", e)
            self._recorder = None
            if self._recorded and batch.spans is not None:
                raise  # states have gone on: the step is taken apart, and its requests begin again where they are right
            restore()
            return self._model(batch)
        self._recorded[len(batch.counts), batch.runs is not None] = _Step(own, recording)
        return result


def lasting_batch(batch: Batch, attention: AttentionBackend, pages: int) -> Batch | None:
    """A copy that `refresh` can fill anew, with room for so many pages of each row. None where attention has none."""
    metas = [attention.lasting(place.attention, pages) for place in batch.places]
    if any(meta is None for meta in metas):
        return None
    return replace(
        batch,
        tokens_T=batch.tokens_T.clone(),
        positions_T=batch.positions_T.clone(),
        places=tuple(Place(place.write_at_T.clone(), meta) for place, meta in zip(batch.places, metas, strict=True)),
        spans=None if batch.spans is None else batch.spans.clone(),
        runs=None if batch.runs is None else batch.runs.lasting(),
    )


def refresh(own: Batch, batch: Batch, attention: AttentionBackend) -> None:
    """The numbers of another step of the same kind."""
    own.tokens_T.copy_(batch.tokens_T)
    own.positions_T.copy_(batch.positions_T)
    for place, new in zip(own.places, batch.places, strict=True):
        place.write_at_T.copy_(new.write_at_T)
        attention.refresh(place.attention, new.attention)
    if own.spans is not None and batch.spans is not None:
        own.spans.copy_(batch.spans)
    if own.runs is not None and batch.runs is not None:
        own.runs.rows_N3.copy_(batch.runs.rows_N3)


def _restoring(batch: Batch) -> Callable[[], None]:
    """Puts back the states of a step that was computed in part; they may be large."""
    spans, states = batch.spans, batch.pool.states
    if spans is None or states is None:
        return _nothing
    saved = states.save(spans.to_S)
    return lambda: states.restore(spans.to_S, saved)


def _nothing() -> None: ...


@dataclass(frozen=True)
class _Step:
    """`batch` is where the recording reads."""

    batch: Batch
    recording: Recording
