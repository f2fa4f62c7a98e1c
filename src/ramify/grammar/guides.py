"""Grammars as the scheduler's guides: the seam between this room and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ramify.core.finish import Finish
from ramify.grammar.constraint import NOTE
from ramify.grammar.gate import Grammars
from ramify.schedule.gate import GO, Verdict
from ramify.schedule.guide import FREE, Guide, Guided
from ramify.schedule.request import Request
from ramify.wire.masks import Masks
from ramify.wire.messages import Submit


@dataclass(eq=False)
class GrammarGuide:
    """Of one request. `tokens` are those it has said, `failed` why it cannot go on."""

    grammars: Grammars
    notes: dict[str, Any]
    tokens: list[int] = field(default_factory=list)
    prompt_len: int = 0
    failed: Finish | None = None

    def take(self, token: int) -> bool:
        self.tokens.append(token)
        if self.failed is not None:
            return False
        finish = self.grammars.follow(self)
        if finish is None or finish.type != "abort":
            return finish is not None
        self.failed = finish
        return False

    def forced(self, room: int) -> Sequence[int]:
        self.look()
        return () if self.failed is not None else self.grammars.forced(self)[:room]

    def look(self) -> None:
        """Find out what may follow; a mask is ready then."""
        if self.failed is None:
            for _, finish in self.grammars.look([self]):
                self.failed = finish


class GrammarGuides:
    """Requests with the note of this room are guided by it, and wait at the gate until their grammar is compiled."""

    def __init__(self, grammars: Grammars, vocab: int) -> None:
        self._grammars = grammars
        self._words = -(-vocab // 32)

    def guide(self, submit: Submit) -> Guide:
        note = submit.notes.get(NOTE)
        return FREE if note is None else GrammarGuide(self._grammars, {NOTE: note})

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict:
        """As a `Gate`."""
        if not isinstance(request.guide, GrammarGuide):
            return GO
        return self._grammars.verdict(cast(Request, request.guide), running)

    def masks(self, rows: Sequence[Guided]) -> tuple[Masks | None, dict[str, Finish]]:
        words = np.zeros((len(rows), self._words), np.uint32)
        failed = {}
        for place, row in enumerate(rows):
            guide = row.request.guide
            assert isinstance(guide, GrammarGuide)
            if row.known is not None:
                words[place, row.known // 32] = 1 << row.known % 32
                continue
            guide.look()
            if guide.failed is None:
                self._grammars.mask(guide, words[place].view(np.int32))
            else:
                failed[row.request.id] = guide.failed
                words[place, 0] = 1  # a row of nothing would be taken for a fault of the model
        return Masks([row.index for row in rows], words), failed
