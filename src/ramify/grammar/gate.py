"""Grammars of requests, as the engine meets them: a gate for those that wait, masks and forced tokens for rows that
run.

    plan ------ launch ------ commit ------- follow ------------ look ---------------- mask
                (forward)     tokens known   over? (loop)        computed (thread)     copied to the sampler

The state of a request is its note `NOTE`: the encoded constraint as it came, then a `Row`. Only this file reads it.

A row that gets stuck in the library ends, and takes with it what all rows of its grammar share. The others are `lost`
until they have passed the gate again, which waits for another copy of the grammar; there each goes on from its tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from ramify.core.errors import UserError
from ramify.core.finish import Finish, internal_error
from ramify.grammar.compiler import Compiled, Compiler
from ramify.grammar.constraint import NOTE, GrammarFault
from ramify.grammar.library import Mask
from ramify.grammar.matcher import Matcher
from ramify.grammar.worker import Worker
from ramify.schedule.gate import GO, Refuse, Verdict, Wait
from ramify.schedule.request import Request

log = logging.getLogger(__name__)

COMPILING = "its grammar is being compiled"
NOWHERE = -1
STUCK = "finding out what may follow takes too long"
LOOK = 0.1  # seconds of computing that one row may take to find out what follows


class Noted(Protocol):
    """What is asked of a request: its id, its tokens, and notes by the name of the room that owns them."""

    id: str
    tokens: list[int]
    prompt_len: int
    notes: dict[str, Any]


@dataclass(slots=True)
class Row:
    """The grammar of one request. Once it is compiled there is a matcher, of that generation of it; `NOWHERE` where the
    matcher knows its tokens and has yet to take them in this copy.
    """

    compiled: Compiled
    matcher: Matcher | None = None
    generation: int = NOWHERE

    @property
    def is_lost(self) -> bool:
        return self.compiled.is_stuck

    @property
    def stands(self) -> bool:
        """It may be asked."""
        return self.generation != NOWHERE and not self.is_lost

    def begin(self) -> None:
        self.matcher, self.generation = self.compiled.matcher(), self.compiled.generation

    def restart(self) -> None:
        """The same place in the newest generation. Takes all its tokens once more."""
        assert self.compiled.beginning is not None
        self.generation = self.compiled.generation
        self.running.restart(self.compiled.beginning)

    @property
    def running(self) -> Matcher:
        assert self.matcher is not None, "a row runs whose grammar is not compiled"
        return self.matcher


class Grammars:
    """A `Gate`, and what the loop asks about rows that run. One thread uses it: the loop's.

    Where a method returns a `Finish` for a request, that request ends so; it must not be asked about any more.
    """

    def __init__(self, compiler: Compiler, seconds: float = LOOK) -> None:
        self._compiler = compiler
        self._seconds = seconds
        self._worker = Worker("ramify-grammar-look")

    def warm(self) -> None:
        self._compiler.warm()

    def close(self) -> None:
        self._worker.close()
        self._compiler.close()

    # -- waiting -----------------------------------------------------------------------------------------------------

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict:
        row = self._row(cast(Noted, request))
        if row is None or row.stands:
            return GO
        if row.is_lost:
            row.compiled, row.generation = self._compiler.request(row.compiled.body), NOWHERE
        if not row.compiled.done:
            return Wait(COMPILING)
        if row.compiled.error is not None:
            return Refuse(row.compiled.error)
        if row.matcher is None:
            row.begin()
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
        """Go on to the request's last token. How it ends if the grammar is over, or the token does not fit."""
        row = self._running(request)
        if not row.stands:
            return None
        try:
            _catch_up(row, request)
        except GrammarFault as e:
            return None if e.is_shared else _fault(e, request)  # `look` tries again
        is_over = row.running.finished and row.running.position > 0
        return Finish.stop(request.tokens[-1]) if is_over else None

    def look(self, requests: Sequence[Noted]) -> list[tuple[Noted, Finish]]:
        """Find out what may follow in each, on a thread and within limits; which of them cannot go on.

        After this `forced` and `mask` cost nothing, for those that are not lost.
        """
        asked = [(row, r) for r in requests if not _is_known(row := self._running(r), r)]
        if not asked:
            return []
        jobs = [partial(_look, row, request) for row, request in asked]
        failed = self._worker.run(jobs, self._seconds, lambda place: self._leave(asked[place][0].compiled))
        return [(asked[place][1], _fault(error, asked[place][1])) for place, error in sorted(failed.items())]

    def _leave(self, compiled: Compiled) -> None:
        """A row of it is stuck in the library, and holds a lock that all others of it need."""
        self._compiler.replace(compiled)

    def is_lost(self, request: Noted) -> bool:
        """Another row of its grammar is stuck: nothing can be said of it before it has passed the gate again."""
        return self._running(request).is_lost

    def forced(self, request: Noted) -> list[int]:
        """The tokens that must follow its last one. Comes after `look`."""
        return self._matcher(request).forced()

    def mask(self, request: Noted, out: Mask) -> None:
        """Fill a row of 32-bit words: the tokens that may follow. Comes after `look`."""
        self._matcher(request).mask(out)

    def guess(self, request: Noted, guesses: Sequence[int], out: Mask) -> int:
        """How many guesses the grammar lets through; fills a row of `out` for each of these, and one more behind.

        Takes a look per guess on the caller's thread: the library's fuel is the only limit.
        """
        matcher = self._matcher(request)
        count = matcher.admitted(guesses)
        matcher.mask(out[0])
        for place, token in enumerate(guesses[:count], 1):
            matcher.accept(token)
            matcher.mask(out[place])
        matcher.rollback(count)
        return count

    def _matcher(self, request: Noted) -> Matcher:
        return self._running(request).running

    def _running(self, request: Noted) -> Row:
        row = request.notes[NOTE]
        assert isinstance(row, Row)
        return row


def _is_known(row: Row, request: Noted) -> bool:
    said = len(request.tokens) - request.prompt_len
    return row.stands and row.running.position == said and row.running.is_known


def _catch_up(row: Row, request: Noted) -> None:
    for token in request.tokens[request.prompt_len + row.running.position :]:
        row.running.accept(token)


def _look(row: Row, request: Noted) -> None:
    """A row that met a limit tries again with a new copy of the grammar, from the request's first token on: it may be
    another row that has used up what they share. If it is this one, the rest get a new copy, too.
    """
    is_alone, again = False, row.generation == NOWHERE
    while not row.is_lost:
        try:
            if again:
                row.restart()
            _catch_up(row, request)
            row.running.look()
            return
        except GrammarFault as e:
            if not e.is_shared:
                raise
            was_alone, is_alone, again = is_alone, row.compiled.renew(row.generation), True
            if was_alone:
                raise


def _fault(error: Exception, request: Noted) -> Finish:
    """How the row ends, alone."""
    if isinstance(error, TimeoutError):
        error = GrammarFault(STUCK)
    if isinstance(error, UserError):
        return Finish.abort(f"the output cannot go on: {error.message}", error.status, error.code)
    log.error("request %s: its grammar failed", request.id, exc_info=error)
    return internal_error(request.id, "grammar_failed")
