"""A tool-call format: how a model writes its calls, as data that a parser reads by and a grammar is built from."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal as Word

from ramify.text.tools.bodies import Body, Kind
from ramify.text.tools.call import Call
from ramify.text.tools.cursor import Cursor, Steps
from ramify.text.tools.parts import Literal, Part, parts_of, read_or_rewind

BARE = frozenset(["{", "["])  # beginnings of calls that are also beginnings of much else
SPACING = Literal(" ")


class Outcome(Enum):
    """Of reading one call."""

    NONE = "there is no call here: rewind, this is text"
    BROKEN = "a call that its text does not finish; what follows is text"
    DONE = "a whole call"


class Shape:
    """One way to write calls: `begin`, then calls with one of `separators` between them, then `end`.

    Parts of `call` come in order, then the body with the arguments. What comes `after` it, and `end`, may be missing
    when read. Without separators a model writes one call; more are read all the same, each with all that belongs to it.
    trigger: see `Frame`; the first word if not given
    anywhere: calls that begin with a bare bracket are looked for where a line begins; these also in it
    """

    def __init__(
        self,
        *call: Part | str,
        body: Body,
        after: tuple[Part | str, ...] = (),
        begin: tuple[Part | str, ...] = (),
        separators: tuple[str, ...] = (),
        end: tuple[Part | str, ...] = (),
        trigger: str = "",
        anywhere: bool = False,
    ) -> None:
        self._begin, self._end = parts_of(begin), parts_of(end)
        self._before, self._after = parts_of(call), parts_of(after)
        self.body = body
        self.separators = separators
        self._trigger = trigger
        self.anywhere = anywhere

    def triggers(self) -> set[str]:
        """Words of which one begins these calls."""
        found: set[str] = set()
        for part in (*self._begin, *self._before, self.body):
            firsts = part.firsts()
            found |= {first for first in firsts if first}
            if "" not in firsts:
                break
        return found

    def marks(self) -> list[str]:
        """All texts that it looks for."""
        parts = (*self._begin, *self._before, self.body, *self._after, *self._end)
        return [mark for part in parts for mark in part.marks() if mark.strip()]

    def read(self, cursor: Cursor, new_call: Callable[[], Call]) -> Steps[bool]:
        """Read all calls that stand here; false if there are none."""
        call = new_call()
        for part in self._begin:
            if not (yield from part.read(cursor, call)):
                return False
        outcome = first = yield from self._call(cursor, call)
        while outcome is Outcome.DONE:
            outcome = yield from self._another(cursor, new_call)
        if first is Outcome.NONE or outcome is Outcome.BROKEN:
            return first is not Outcome.NONE
        yield from _read_closers(self._end, cursor, call)
        return True

    def _another(self, cursor: Cursor, new_call: Callable[[], Call]) -> Steps[Outcome]:
        for separator in self.separators:
            cursor.pin()
            call = new_call()
            if (yield from Literal(f" {separator} ").match(cursor)):
                outcome = yield from self._call(cursor, call)
                if outcome is not Outcome.NONE:
                    return outcome
            cursor.rewind()
        return Outcome.NONE

    def _call(self, cursor: Cursor, call: Call) -> Steps[Outcome]:
        """Announcing the call releases the pin that whoever reads it has set."""
        for part in (*self._before, self.body):
            if not (yield from part.read(cursor, call)):
                break
        if not call.announced:
            return Outcome.NONE
        call.end(cursor.offset)
        if not call.complete:
            return Outcome.BROKEN
        yield from _read_closers(self._after, cursor, call)
        return Outcome.DONE

    def frame(self, name: str, number: int) -> Frame:
        before, after = self.body.around(name, number)
        return Frame(
            kind=self.body.kind,
            begin=_written(self._begin, name, number),
            before=_written(self._before, name, number) + before,
            after=after + _written(self._after, name, number),
            separator=self.separators[0] if self.separators else None,
            end=_written(self._end, name, number),
            trigger=self._trigger or self._first_word(name, number),
            body=self.body,
        )

    def _first_word(self, name: str, number: int) -> str:
        if not self.triggers().isdisjoint(BARE):
            return ""
        written = [part.written(name, number).split() for part in self._begin + self._before]
        return next(words[0] for words in written if words)


def _read_closers(parts: tuple[Part, ...], cursor: Cursor, call: Call) -> Steps[None]:
    """Those that are there, with white space before them or not."""
    for part in parts:
        yield from read_or_rewind((SPACING, part), cursor, call)


def _written(parts: tuple[Part, ...], name: str, number: int) -> str:
    return "".join(part.written(name, number) for part in parts)


@dataclass(frozen=True)
class Frame:
    """How calls of one tool are written: `begin`, `before` arguments `after`, again after a `separator`, `end`.

    Without a separator there is one call. `trigger` is a beginning of all these texts after which nothing but a call
    comes; empty where calls begin like ordinary text. `kind` says how the arguments are written. "json": an object that
    the tool's schema describes, and a grammar can hold them to it as it stands. For the others the grammar has to be
    made from `body`: "pairs" are texts between marks, of which those of type string are free up to the mark and all
    others JSON; "keywords" and "braces" are JSON but for the way that keys, strings and constants are written.
    """

    kind: Kind
    begin: str
    before: str
    after: str
    separator: str | None
    end: str
    trigger: str
    body: Body


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls.

    shapes: ways to write them, the first being the one that the model is trained on
    signs: sets of texts; a chat template that holds all texts of one set is for this format
    ids: "call" for ids as OpenAI has them, "nine" for Mistral's nine letters and digits. Ids that the model gives win.
    """

    name: str
    shapes: tuple[Shape, ...]
    signs: tuple[tuple[str, ...], ...] = ()
    ids: Word["call", "nine"] = "call"

    def triggers(self) -> set[str]:
        return set().union(*(shape.triggers() for shape in self.shapes))

    def marks(self) -> list[str]:
        return [mark for shape in self.shapes for mark in shape.marks()]

    def frame(self, name: str, number: int = 0) -> Frame:
        """For a grammar that makes the model call the tool `name`, as call `number` of its answer."""
        return self.shapes[0].frame(name, number)

    def new_id(self) -> str:
        if self.ids == "nine":
            return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"
