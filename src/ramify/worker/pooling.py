"""Texts on their way to a vector: what was pooled of each, and the head once it is read to its end."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ramify.config.head import Head
from ramify.layers.pooling import Pooling, make_pooling
from ramify.ops.staging import Staging
from ramify.wire.plan import Opened, Plan
from ramify.worker.adapters import Adapters, NoAdapters
from ramify.worker.inputs import each_alone

Spans = list[tuple[int, int]]  # of each row of a plan, where its states begin and at which position of its text


class Pooler(Protocol):
    """Pools for a runner; of models that generate there is nothing to pool."""

    def open(self, new: Opened) -> None: ...
    def close(self, slot: int) -> None: ...

    def step(self, plan: Plan, spans: Spans, hidden_TD: Tensor) -> dict[int, Tensor]:
        """What the head gives, [rows, size] in fp32, by the number of the row, for texts that end in this step."""


class NoPooler:
    def open(self, new: Opened) -> None: ...
    def close(self, slot: int) -> None: ...

    def step(self, plan: Plan, spans: Spans, hidden_TD: Tensor) -> dict[int, Tensor]:
        return {}


class _Text:
    def __init__(self, new: Opened, pooling: Pooling) -> None:
        assert new.pooling is not None
        self.tokens = new.tokens
        self.skip = new.pooling.skip
        self.adapter = new.adapter
        self.pooling = pooling


class HeadPooler:
    """`module` is what is computed of the pooled states, [N, D] to [N, size]."""

    def __init__(
        self,
        head: Head,
        module: torch.nn.Module,
        staging: Staging,
        adapters: Adapters | None = None,
    ) -> None:
        self._head, self._module = head, module
        self._staging, self._adapters = staging, adapters or NoAdapters()
        self._texts: dict[int, _Text] = {}

    def open(self, new: Opened) -> None:
        if new.pooling is not None:
            self._texts[new.slot] = _Text(new, make_pooling(self._head))

    def close(self, slot: int) -> None:
        self._texts.pop(slot, None)

    def step(self, plan: Plan, spans: Spans, hidden_TD: Tensor) -> dict[int, Tensor]:
        ended: dict[int, Tensor] = {}
        adapters: list[int] = []
        for index, (row, (start, first)) in enumerate(zip(plan.rows, spans, strict=True)):
            text = self._texts.get(row.slot)
            if text is None:
                continue
            last, skip = first + row.count, max(text.skip - first, 0)
            if skip < row.count:
                text.pooling.add(hidden_TD[start + skip : start + row.count], text.tokens[first + skip : last])
            if last == len(text.tokens):
                ended[index] = text.pooling.result()
                adapters += [text.adapter] * len(ended[index])
        if ended:
            self._adapters.compute(each_alone(adapters, self._staging) if adapters else None)
        return self._through_head(ended)

    def _through_head(self, pooled: dict[int, Tensor]) -> dict[int, Tensor]:
        """All texts at once: the head's numbers of one do not depend on the others."""
        if not pooled:
            return {}
        counts = [len(states) for states in pooled.values()]
        results = self._module(torch.cat(list(pooled.values()))).split(counts)
        return dict(zip(pooled, results, strict=True))
