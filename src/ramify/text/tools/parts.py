"""The parts that tool-call formats are put together from. Each knows how it is read and how it is written."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from ramify.text.tools.call import Call
from ramify.text.tools.cursor import Cursor, Steps

MAX_NAME = 256

NAME_CHARACTERS = re.compile(r"[\w.\-/:]*")
WORD_CHARACTERS = re.compile(r"[\w.\-]*")


class Part(ABC):
    """A piece of the way a call is written."""

    @abstractmethod
    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        """Read it; false if something else is there."""

    @abstractmethod
    def written(self, name: str, number: int) -> str:
        """As it stands in call `number` (from 0) of the tool `name`."""

    def firsts(self) -> list[str]:
        """The words it can begin with, and an empty one if it may be absent."""
        raise AssertionError(f"no call can be told from text if it begins with {self}")

    def marks(self) -> list[str]:
        """Texts that it looks for."""
        return []


@dataclass(frozen=True)
class Literal(Part):
    """A text. Where it has white space any amount may be read, also none."""

    text: str

    @cached_property
    def words(self) -> list[str]:
        return re.split(r"\s+", self.text)

    def match(self, cursor: Cursor) -> Steps[bool]:
        for number, word in enumerate(self.words):
            if number:
                yield from cursor.space()
            if word and not (yield from cursor.literal(word)):
                return False
        return True

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        return (yield from self.match(cursor))

    def firsts(self) -> list[str]:
        return self.text.split()[:1] or [""]

    def written(self, name: str, number: int) -> str:
        return self.text

    def marks(self) -> list[str]:
        return [self.text]


@dataclass(frozen=True)
class Name(Part):
    """The tool's name, as it stands."""

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        yield from cursor.space()
        return call.named((yield from cursor.run(NAME_CHARACTERS, MAX_NAME)))

    def written(self, name: str, number: int) -> str:
        return name


@dataclass(frozen=True)
class NameInId(Part):
    """An id that holds the name: `pattern` has a group for it, `form` writes it."""

    pattern: re.Pattern[str]
    form: str

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        call.id = yield from cursor.run(NAME_CHARACTERS, MAX_NAME)
        found = self.pattern.fullmatch(call.id)
        return found is not None and call.named(found["name"])

    def written(self, name: str, number: int) -> str:
        return self.form.format(name=name, number=number)


@dataclass(frozen=True)
class Id(Part):
    """An id that the model gives the call."""

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        call.id = yield from cursor.run(WORD_CHARACTERS, MAX_NAME)
        return bool(call.id)

    def written(self, name: str, number: int) -> str:
        return f"{number:09}"


@dataclass(frozen=True)
class Skipped(Part):
    """A word of no consequence, written like this."""

    usual: str

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        return bool((yield from cursor.run(NAME_CHARACTERS, MAX_NAME)))

    def written(self, name: str, number: int) -> str:
        return self.usual


class Maybe(Part):
    """Parts that may be left out, all together; `written` says whether they are when a call is written."""

    def __init__(self, *parts: Part | str, written: bool = False) -> None:
        self._parts = parts_of(parts)
        self._is_written = written

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        yield from read_or_rewind(self._parts, cursor, call)
        return True

    def firsts(self) -> list[str]:
        return [*self._parts[0].firsts(), ""]

    def written(self, name: str, number: int) -> str:
        return "".join(part.written(name, number) for part in self._parts) if self._is_written else ""

    def marks(self) -> list[str]:
        return [mark for part in self._parts for mark in part.marks()]


class OneOf(Part):
    """One of several texts; the first is the one that is written."""

    def __init__(self, *texts: str) -> None:
        self._parts = [Literal(text) for text in texts]

    def read(self, cursor: Cursor, call: Call) -> Steps[bool]:
        for part in self._parts:
            if (yield from read_or_rewind((part,), cursor, call)):
                return True
        return False

    def firsts(self) -> list[str]:
        return [first for part in self._parts for first in part.firsts()]

    def written(self, name: str, number: int) -> str:
        return self._parts[0].text

    def marks(self) -> list[str]:
        return [part.text for part in self._parts]


def parts_of(parts: tuple[Part | str, ...]) -> tuple[Part, ...]:
    return tuple(Literal(part) if isinstance(part, str) else part for part in parts)


def read_or_rewind(parts: tuple[Part, ...], cursor: Cursor, call: Call) -> Steps[bool]:
    """Read all parts, or none. None of them may hold arguments."""
    cursor.pin()
    for part in parts:
        if not (yield from part.read(cursor, call)):
            cursor.rewind()
            return False
    cursor.release()
    return True
