"""Grammars as the scheduler's guides: the seam between this room and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ramify.core.errors import InternalError, UserError, from_status
from ramify.core.finish import Finish
from ramify.grammar.constraint import NOTE
from ramify.grammar.gate import Grammars
from ramify.schedule.gate import GO, Refuse, Verdict
from ramify.schedule.guide import FREE, Allowed, Guide, Guided
from ramify.schedule.request import Request
from ramify.wire.masks import Masks
from ramify.wire.messages import Submit


@dataclass(eq=False)
class GrammarGuide:
    """Of one request. `tokens` are those it has said, `failed` why it cannot go on."""

    id: str
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
        return self.grammars.forced(self)[:room] if self.can_say else ()

    @property
    def can_say(self) -> bool:
        """What may follow is known, once there was a look."""
        return self.failed is None and not self.grammars.is_lost(self)


class GrammarGuides:
    """Requests with the note of this room are guided by it, and wait at the gate until their grammar is compiled."""

    def __init__(self, grammars: Grammars, vocab: int) -> None:
        self._grammars = grammars
        self._words, self._spare = -(-vocab // 32), vocab % 32

    def warm(self) -> None:
        self._grammars.warm()

    def close(self) -> None:
        self._grammars.close()

    def guide(self, submit: Submit) -> Guide:
        note = submit.notes.get(NOTE)
        return FREE if note is None else GrammarGuide(submit.rid, self._grammars, {NOTE: note})

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict:
        """As a `Gate`."""
        guide = request.guide
        if not isinstance(guide, GrammarGuide):
            return GO
        if guide.failed is not None:  # it was preempted before it could be told
            return Refuse(_error(guide.failed))
        return self._grammars.verdict(cast(Request, guide), running)

    def look(self, requests: Sequence[Request]) -> None:
        guides = [_guide(request) for request in requests]
        for guide, finish in self._grammars.look([guide for guide in guides if guide.failed is None]):
            cast(GrammarGuide, guide).failed = finish

    def masks(self, rows: Sequence[Guided]) -> Allowed:
        self.look([row.request for row in rows if row.known is None])
        words = np.zeros((len(rows), self._words), np.uint32)
        ended, again = {}, []
        for place, row in enumerate(rows):
            guide = _guide(row.request)
            if row.known is not None:
                words[place, row.known // 32] = 1 << row.known % 32
            elif guide.can_say:
                self._grammars.mask(guide, words[place].view(np.int32))
            else:
                words[place, 0] = 1  # a row of nothing would be taken for a fault of the model
                if guide.failed is not None:
                    ended[row.request.id] = guide.failed
                else:
                    again.append(row.request.id)
        if self._spare:
            words[:, -1] &= (1 << self._spare) - 1  # an adapter may have tokens of those numbers
        return Allowed(Masks([row.index for row in rows], words), ended, again)


def _guide(request: Request) -> GrammarGuide:
    assert isinstance(request.guide, GrammarGuide)
    return request.guide


def _error(finish: Finish) -> UserError:
    return from_status(finish.status or InternalError.status, finish.message or "", code=finish.code)
