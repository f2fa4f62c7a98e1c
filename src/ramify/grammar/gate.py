"""Grammars of requests, as the engine meets them: a gate for those that wait, and masks and forced tokens for rows.

The state of a request is its note `NOTE`: the encoded constraint as it came, then a `Row`. Only this file reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ramify.core.errors import UserError
from ramify.core.finish import Finish
from ramify.grammar.compiler import Compiled, Compiler
from ramify.grammar.constraint import NOTE, GrammarFault
from ramify.grammar.library import Mask
from ramify.grammar.matcher import Matcher
from ramify.schedule.gate import GO, Refuse, Verdict, Wait
from ramify.schedule.request import Request

COMPILING = "its grammar is being compiled"


class Noted(Protocol):
    """What is asked of a request: its tokens, and notes by the name of the room that owns them."""

    id: str
    tokens: list[int]
    prompt_len: int
    notes: dict[str, Any]


@dataclass(slots=True)
class Row:
    """The grammar of one request. There is a matcher once it is compiled."""

    compiled: Compiled
    matcher: Matcher | None = None


class Grammars:
    """A `Gate`, and what the loop asks about rows that run. One thread uses it: the loop's."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    # -- waiting -----------------------------------------------------------------------------------------------------

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict:
        row = self._row(cast(Noted, request))
        if row is None or row.matcher is not None:
            return GO
        if not row.compiled.done:
            return Wait(COMPILING)
        if row.compiled.error is not None:
            return Refuse(row.compiled.error)
        row.matcher = row.compiled.matcher()
        return GO

    def _row(self, request: Noted) -> Row | None:
        note = request.notes.get(NOTE)
        if isinstance(note, bytes):
            note = request.notes[NOTE] = Row(self._compiler.request(note))
        return note

    # -- running -----------------------------------------------------------------------------------------------------

    def is_constrained(self, request: Noted) -> bool:
        return NOTE in request.notes

    def follow(self, request: Noted) -> Finish | None:
        """Go on to the request's last token. How it ends if the grammar is over, or cannot go on."""
        matcher = self._matcher(request)
        try:
            for token in request.tokens[request.prompt_len + matcher.position :]:
                matcher.accept(token)
        except GrammarFault as e:
            return self._fault(request, e)
        return Finish.stop(request.tokens[-1]) if matcher.finished and matcher.position else None

    def forced(self, request: Noted) -> list[int]:
        """The tokens that must follow its last one."""
        try:
            return self._matcher(request).forced()
        except GrammarFault:
            return []  # the mask meets it again, and can end the row

    def admitted(self, request: Noted, guesses: Sequence[int]) -> int:
        """How many of these guesses the grammar lets through."""
        return self._matcher(request).admitted(guesses)

    def mask(self, request: Noted, out: Mask, guesses: Sequence[int] = ()) -> Finish | None:
        """Fill `out`, one row of 32-bit words for the next token and one behind each guess. How it ends if it cannot.

        Guesses that the grammar does not admit, and rows behind them, are left to the caller to drop.
        """
        matcher = self._matcher(request)
        rows = out.reshape(len(guesses) + 1, -1)
        taken = 0
        try:
            matcher.mask(rows[0])
            for guess in guesses:
                matcher.accept(guess)
                taken += 1
                matcher.mask(rows[taken])
        except GrammarFault as e:
            return self._fault(request, e)
        matcher.rollback(taken)
        return None

    def _matcher(self, request: Noted) -> Matcher:
        row = request.notes[NOTE]
        assert isinstance(row, Row)
        assert row.matcher is not None, "a row runs whose grammar is not compiled"
        return row.matcher

    def _fault(self, request: Noted, error: UserError) -> Finish:
        """The row alone ends. Its grammar may be used up by all that have shared it, so nobody else gets this copy."""
        self._compiler.forget(request.notes[NOTE].compiled)
        return Finish.abort(f"the output cannot go on: {error.message}", error.status, error.code)
