"""One step of an encoder on one device: whole texts in, what the head makes of them out. Nothing stays behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ramify.layers.passages import Passages, make_passages
from ramify.ops.modes import Modes, OneMode
from ramify.ops.staging import Staging
from ramify.wire.masks import Masks
from ramify.wire.plan import Plan, Row
from ramify.worker.outcome import Left, News, Outcome
from ramify.worker.pooling import Pooler


class EncoderModel(Protocol):
    """What the runner asks of a model: see `models.bert.Bert`."""

    def __call__(self, texts: Passages, /) -> Tensor: ...


@dataclass(frozen=True)
class Encoded:
    """A step that is computed. `pooled` is what the head gave, by row."""

    plan: Plan
    pooled: dict[int, Tensor]


class EncoderRunner:
    """Owns the texts of the step; one thread runs it, in the order of the plans."""

    def __init__(self, model: EncoderModel, pooler: Pooler, staging: Staging, modes: Modes | None = None) -> None:
        self.model = model
        self._staging, self._modes = staging, modes or OneMode()
        self._pooler = pooler
        self._texts: dict[int, tuple[list[int], int]] = {}  # by slot, with where the second of a pair begins

    def forward(self, plan: Plan) -> Encoded:
        """Everything: pages that a plan grants stand for no memory here."""
        self.always(plan)
        self._modes.use(plan.invariant)
        for new in plan.opened:
            second = new.pooling.second if new.pooling is not None else -1
            self._texts[new.slot] = (new.tokens, second)
            self._pooler.open(new)
        if not plan.rows:
            return Encoded(plan, {})
        texts = self._passages(plan.rows)
        spans = [(start, 0) for start in texts.starts]
        return Encoded(plan, self._pooler.step(plan, spans, self.model(texts)))

    def _passages(self, rows: list[Row]) -> Passages:
        found = [self._texts[row.slot] for row in rows]
        assert all(row.count == len(tokens) for row, (tokens, _) in zip(rows, found, strict=True)), "a part of a text"
        return make_passages([tokens for tokens, _ in found], [second for _, second in found], self._staging)

    def always(self, plan: Plan) -> None:
        """Slots that a plan gives up, which it does whatever becomes of the rest of it."""
        for slot in plan.closed:
            self._texts.pop(slot, None)
            self._pooler.close(slot)

    def sample(self, encoded: Encoded, masks: Masks | None = None) -> Outcome:
        """Nothing is sampled."""
        return Outcome(encoded.plan, Left(pooled=encoded.pooled), self._staging)

    def learn(self, news: News) -> None:
        """Nothing hangs on a text once it is read."""

    def close(self) -> None: ...
