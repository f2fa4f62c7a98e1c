"""An executor that computes nothing: its tokens are made up and there at once.

With `--load-format none` a server runs everything but the model on it, so that the rest can be measured by itself.
"""

from __future__ import annotations

import numpy as np

from ramify.wire.masks import Masks
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult


class NullPending:
    def __init__(self, result: StepResult) -> None:
        self._result = result

    def wait(self) -> StepResult:
        return self._result


class NullExecutor:
    """Token ids count up through the `vocab`; where a mask says which may come, it is one of those."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._next = 0

    def launch(self, plan: Plan) -> None: ...

    def sample(self, plan: Plan, masks: Masks | None = None) -> NullPending:
        tokens = [[self._token()] if row.sample else [] for row in plan.rows]
        for index, words in zip(masks.rows, masks.words, strict=True) if masks is not None else ():
            tokens[index] = [self._one_of(words)]
        return NullPending(StepResult(plan.step, tokens, {}, [copy.ticket for copy in plan.copies], {}))

    def _token(self) -> int:
        self._next = (self._next + 1) % self._vocab
        return self._next

    def _one_of(self, words: np.ndarray) -> int:
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
        return int(allowed[self._token() % len(allowed)])

    def drain(self) -> None: ...

    def close(self) -> None: ...
