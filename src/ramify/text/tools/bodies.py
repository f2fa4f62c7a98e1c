"""The ways arguments are written, and how they become JSON as they arrive."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal as Word

from ramify.text.tools.call import Call
from ramify.text.tools.cursor import Cursor, Markers, Steps
from ramify.text.tools.parts import MAX_NAME, WORD_CHARACTERS, Literal, Part
from ramify.text.tools.signatures import STRING, as_json
from ramify.text.tools.values import JSON, MAX_KEY, PYTHON, Dialect, ValueReader, quote_inside

KEY_CHARACTERS = re.compile(r'[^<>"\r\n]*')

Kind = Word["json", "pairs", "keywords", "braces"]


class Body(Part):
    """The part that holds the arguments."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The notation of the arguments: only "json" can be held to a JSON schema as it stands."""

    def around(self, name: str, number: int) -> tuple[str, str]:
        """What it writes before and after the arguments themselves."""
        return "", ""

    def written(self, name: str, number: int) -> str:
        before, after = self.around(name, number)
        return before + "{}" + after

    def firsts(self) -> list[str]:
        return ["{"]


@dataclass(frozen=True)
class Value(Body):
    """The arguments as an object, in JSON or a notation like it."""

    dialect: Dialect = JSON

    @property
    def kind(self) -> Kind:
        return "json" if self.dialect is JSON else "braces"

    def marks(self) -> list[str]:
        return list(self.dialect.quotes)

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        yield from cursor.space()
        if (yield from cursor.peek()) != "{":
            return False
        call.complete = yield from ValueReader(cursor, self.dialect, call.write).read()
        return call.complete


@dataclass(frozen=True)
class Object(Body):
    """A JSON object with the name and the arguments in it, under one of the keys given for each, in any order.

    Other keys may follow the arguments, and are passed over; before them only `ignored` ones may stand. Arguments that
    come before the name wait for it.
    """

    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    ids: tuple[str, ...] = ("id",)
    ignored: tuple[str, ...] = ("type", "index")

    @property
    def kind(self) -> Kind:
        return "json"

    def around(self, name: str, number: int) -> tuple[str, str]:
        return f'{{"{self.names[0]}": {json.dumps(name)}, "{self.arguments[0]}": ', "}"

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        yield from cursor.space()
        if not (yield from cursor.literal("{")):
            return False
        while (yield from self._field(cursor, call)):
            if call.announced:
                return (yield from self._rest(cursor, call))
            yield from cursor.space()
            if not (yield from cursor.literal(",")):
                return (yield from self._close(cursor, call))
        return False

    def _rest(self, cursor: Cursor, call: Call) -> Steps[bool]:
        """After name and arguments; what does not belong to the object is left for others."""
        while True:
            cursor.pin()
            yield from cursor.space()
            if (yield from cursor.literal("}")):
                cursor.release()
                return True
            if not ((yield from cursor.literal(",")) and (yield from self._field(cursor, call))):
                cursor.rewind()
                return False
            cursor.release()

    def _close(self, cursor: Cursor, call: Call) -> Steps[bool]:
        if not (yield from cursor.literal("}")):
            return False
        if not call.complete:
            call.complete = True
            call.write("{}")
        return call.announced

    def _field(self, cursor: Cursor, call: Call) -> Steps[bool]:
        yield from cursor.space()
        key = yield from cursor.quoted(MAX_KEY)
        yield from cursor.space()
        if key is None or not (yield from cursor.literal(":")):
            return False
        yield from cursor.space()
        if key in self.arguments and not call.complete:
            return (yield from self._arguments(cursor, call))
        if key in self.names and not call.name:
            return call.named((yield from cursor.quoted(MAX_NAME)) or "")
        if call.announced:
            return (yield from ValueReader(cursor, JSON, _drop).read())
        return (yield from self._remark(key, cursor, call))

    def _arguments(self, cursor: Cursor, call: Call) -> Steps[bool]:
        if (yield from cursor.literal("null")):
            call.write("{}")
            call.complete = True
            return True
        return (yield from Value().read(cursor, call))

    def _remark(self, key: str, cursor: Cursor, call: Call) -> Steps[bool]:
        """An id or something of no consequence: a short scalar."""
        said = yield from cursor.quoted(MAX_NAME)
        if said is None:
            said = yield from cursor.run(WORD_CHARACTERS, MAX_NAME)
        if key in self.ids:
            call.id = said
        return bool(said) and key in self.ids + self.ignored


def _drop(piece: str) -> None:
    """Nobody reads it."""


@dataclass(frozen=True)
class Pairs(Body):
    """Arguments as marked pairs of a key and a text, typed by the tool's schema.

    Written `open` key `between` text `end`, again and again until `close`, which belongs to the part that follows. A
    text may hold its own end mark: it ends where a pair or `close` comes next. With `flag` an attribute between key and
    text says whether the text is a string. With `newlines` one line break at each end of a text belongs to the marks.
    """

    open: str
    between: str
    end: str
    close: str
    flag: str = ""
    newlines: bool = False

    @property
    def kind(self) -> Kind:
        return "pairs"

    @cached_property
    def _ends(self) -> Markers:
        return Markers([self.end, "\n" + self.end] if self.newlines else [self.end])

    @cached_property
    def _between(self) -> Literal:
        return Literal(self.between)

    def firsts(self) -> list[str]:
        return [self.open, self.close]

    def marks(self) -> list[str]:
        return [self.open, self.between, self.flag, self.end, self.close]

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        call.write("{")
        separator = ""
        while not (yield from self._closes(cursor)):
            if not (yield from self._pair(cursor, call, separator)):
                return False
            separator = ", "
        call.write("}")
        call.complete = True
        return True

    def _closes(self, cursor: Cursor) -> Steps[bool]:
        """Whether there are no more pairs."""
        yield from cursor.space()
        return (yield from _comes(cursor, self.close))

    def _pair(self, cursor: Cursor, call: Call, separator: str) -> Steps[bool]:
        cursor.pin()
        found = yield from cursor.literal(self.open)
        key = (yield from cursor.run(KEY_CHARACTERS, MAX_KEY)) if found else ""
        types = yield from self._types(key, cursor, call)
        if not key or not (yield from self._between.match(cursor)):
            cursor.rewind()
            return False
        cursor.release()
        call.write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        if self.newlines:
            yield from cursor.literal("\n")
        return (yield from self._value(types, cursor, call))

    def _types(self, key: str, cursor: Cursor, call: Call) -> Steps[frozenset[str]]:
        types = call.types(key)
        if self.flag and (yield from cursor.literal(self.flag)):
            if (yield from cursor.literal("true")):
                return STRING
            yield from cursor.literal("false")
            return types - STRING
        return types

    def _value(self, types: frozenset[str], cursor: Cursor, call: Call) -> Steps[bool]:
        """A string streams; what has to be read to be typed waits for its end."""
        if types == STRING:
            call.write('"')
            ended = yield from self._text(cursor, lambda text: call.write(quote_inside(text)))
            call.write('"' if ended else "")
            return ended
        pieces: list[str] = []
        ended = yield from self._text(cursor, pieces.append)
        call.write(as_json("".join(pieces), types))
        return ended

    def _text(self, cursor: Cursor, write: Callable[[str], None]) -> Steps[bool]:
        while True:
            said, mark = cursor.upto(self._ends)
            if said:
                write(said)
            if mark:
                if (yield from self._ends_with(mark, cursor)):
                    return True
                write(cursor.take(len(mark)))
            elif cursor.ended:
                return False
            else:
                yield

    def _ends_with(self, mark: str, cursor: Cursor) -> Steps[bool]:
        """Read the mark if a pair, `close` or the end of the text follows it; if not it is a part of the value."""
        cursor.pin()
        cursor.take(len(mark))
        yield from cursor.space()
        ends = (yield from _comes(cursor, self.open)) or (yield from _comes(cursor, self.close))
        if ends or not (yield from cursor.peek()):
            cursor.release()
            return True
        cursor.rewind()
        return False


def _comes(cursor: Cursor, word: str) -> Steps[bool]:
    """Whether a word comes next; it is not read."""
    cursor.pin()
    found = yield from cursor.literal(word)
    cursor.rewind()
    return found


@dataclass(frozen=True)
class Keywords(Body):
    """Arguments as Python writes keyword arguments, up to the closing parenthesis, typed by the tool's schema."""

    @property
    def kind(self) -> Kind:
        return "keywords"

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        call.write("{")
        separator = ""
        while not (yield from self._closes(cursor)):
            if separator and not (yield from cursor.literal(",")):
                return False
            if separator and (yield from self._closes(cursor)):
                break
            if not (yield from self._argument(cursor, call, separator)):
                return False
            separator = ", "
        call.write("}")
        call.complete = True
        return True

    def _closes(self, cursor: Cursor) -> Steps[bool]:
        yield from cursor.space()
        return (yield from cursor.peek()) == ")"

    def _argument(self, cursor: Cursor, call: Call, separator: str) -> Steps[bool]:
        cursor.pin()
        key = yield from cursor.run(WORD_CHARACTERS, MAX_KEY)
        yield from cursor.space()
        if not key or not (yield from cursor.literal("=")):
            cursor.rewind()
            return False
        cursor.release()
        call.write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        yield from cursor.space()
        types = call.types(key)
        if types and types.isdisjoint(STRING) and (yield from cursor.peek()) in ("'", '"'):
            return (yield from self._quoted_value(types, cursor, call))
        return (yield from ValueReader(cursor, PYTHON, call.write).read())

    def _quoted_value(self, types: frozenset[str], cursor: Cursor, call: Call) -> Steps[bool]:
        """A string where the schema has none: perhaps a value that the model put in quotes."""
        pieces: list[str] = []
        if not (yield from ValueReader(cursor, PYTHON, pieces.append).read()):
            call.write("".join(pieces))
            return False
        string = "".join(pieces)
        value = as_json(json.loads(string), types)
        call.write(string if value.startswith('"') else value)
        return True
