"""Values of JSON and of notations like it, turned into JSON as they arrive.

One reader for all: a `Dialect` says how strings are quoted, how keys look and what the words are. JSON itself passes
through as it stands, white space included. Control characters in strings, which JSON forbids and models write, are
escaped; a backslash before anything that is no escape stands for itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ramify.text.tools.cursor import Cursor, Markers, Steps

MAX_DEPTH = 100  # of lists and objects in each other
MAX_WORD = 1024  # characters of a number
MAX_KEY = 256

Write = Callable[[str], None]

WORD = re.compile(r"[A-Za-z0-9+\-._]*")
KEY = re.compile(r"[\w.\-$]*")
JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
JSON_ESCAPED = re.compile(r'(?:\\["\\/bfnrt]|[^"\\\x00-\x1f])+')  # what stands in a JSON string as it is
HEXADECIMAL = re.compile(r"[0-9a-fA-F]*")
CLOSERS = {"{": "}", "[": "]"}

JSON_WORDS = {"true": "true", "false": "false", "null": "null"}
LOOSE_WORDS = JSON_WORDS | {"True": "true", "False": "false", "None": "null"}
JSON_ESCAPES = {character: f"\\{character}" for character in '"\\/bfnrt'}
PYTHON_ESCAPES = {"'": "'", "\n": "", "a": "\\u0007", "v": "\\u000b", "0": "\\u0000"} | {
    character: JSON_ESCAPES[character] for character in '"\\bfnrt'
}
HEX_ESCAPES = {"u": 4, "x": 2, "U": 8}  # and how many digits they take


@dataclass(frozen=True)
class Dialect:
    """How values are written.

    `quotes`: delimiters of strings, a longer one before one that it begins with. `escapes`: what follows a backslash,
    and its JSON; empty where a backslash is an ordinary character. `bare_keys`: keys of objects may go without quotes.
    `verbatim`: white space is passed on. `loose`: a comma may follow the last item.
    """

    quotes: tuple[str, ...]
    words: dict[str, str]
    escapes: dict[str, str]
    hex_escapes: str = ""
    bare_keys: bool = False
    verbatim: bool = False
    loose: bool = False

    @cached_property
    def ends(self) -> dict[str, Markers]:
        """For each quote, what to look for in a string that it began."""
        return {quote: Markers([quote, "\\"] if self.escapes else [quote]) for quote in self.quotes}

    def word(self, word: str) -> str | None:
        """The JSON of a number or constant; None if it is neither."""
        if word in self.words:
            return self.words[word]
        if JSON_NUMBER.fullmatch(word):
            return word
        return _python_number(word) if self.loose else None


JSON = Dialect(('"',), JSON_WORDS, JSON_ESCAPES, "u", verbatim=True)
PYTHON = Dialect(("'''", '"""', "'", '"'), LOOSE_WORDS, PYTHON_ESCAPES, "uxU", loose=True)


def _python_number(word: str) -> str | None:
    try:
        return str(int(word, 0))
    except ValueError:
        pass
    try:
        number = json.dumps(float(word))
    except ValueError:
        return None
    return number if JSON_NUMBER.fullmatch(number) else None  # not inf, not nan


def quote_inside(text: str) -> str:
    """Text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class ValueReader:
    """Reads one value and writes its JSON. False: there is no value, from where the cursor stands."""

    def __init__(self, cursor: Cursor, dialect: Dialect, write: Write) -> None:
        self._cursor = cursor
        self._dialect = dialect
        self._write = write
        self._closers: list[str] = []  # of the lists and objects that are open
        self._fresh = False  # the innermost of them has no item yet

    def read(self) -> Steps[bool]:
        if not (yield from self._value()):
            return False
        while self._closers:
            if not (yield from self._next()):
                return False
        return True

    def _value(self) -> Steps[bool]:
        """A scalar, or the beginning of a list or an object."""
        yield from self._space()
        first = yield from self._cursor.peek()
        if first in CLOSERS:
            return self._open(first)
        quote = yield from self._quote()
        if quote:
            return (yield from self._string(quote))
        self._cursor.pin()
        word = self._dialect.word((yield from self._cursor.run(WORD, MAX_WORD)))
        if word is None:
            self._cursor.rewind()
            return False
        self._cursor.release()
        self._write(word)
        return True

    def _open(self, first: str) -> bool:
        if len(self._closers) == MAX_DEPTH:
            return False
        self._write(self._cursor.take(1))
        self._closers.append(CLOSERS[first])
        self._fresh = True
        return True

    def _next(self) -> Steps[bool]:
        """The next item of the innermost list or object, or its end."""
        yield from self._space()
        first = yield from self._cursor.peek()
        if first == self._closers[-1]:
            self._close()
            return True
        if not self._fresh:
            if first != ",":
                return False
            self._cursor.take(1)
            if self._dialect.loose and (yield from self._closes()):
                return True
            self._write("," if self._dialect.verbatim else ", ")
        if self._closers[-1] == "}" and not (yield from self._key()):
            return False
        self._fresh = False
        return (yield from self._value())

    def _close(self) -> None:
        self._cursor.take(1)
        self._write(self._closers.pop())
        self._fresh = False

    def _closes(self) -> Steps[bool]:
        yield from self._space()
        if (yield from self._cursor.peek()) != self._closers[-1]:
            return False
        self._close()
        return True

    def _key(self) -> Steps[bool]:
        yield from self._space()
        quote = yield from self._quote()
        if quote:
            if not (yield from self._string(quote)):
                return False
        elif not (self._dialect.bare_keys and (yield from self._bare_key())):
            return False
        yield from self._space()
        if not (yield from self._cursor.literal(":")):
            return False
        self._write(":" if self._dialect.verbatim else ": ")
        return True

    def _bare_key(self) -> Steps[bool]:
        key = yield from self._cursor.run(KEY, MAX_KEY)
        if key:
            self._write(json.dumps(key, ensure_ascii=False))
        return bool(key)

    def _space(self) -> Steps[None]:
        space = yield from self._cursor.space()
        if space and self._dialect.verbatim:
            self._write(space)

    def _quote(self) -> Steps[str]:
        for quote in self._dialect.quotes:
            if (yield from self._cursor.literal(quote)):
                return quote
        return ""

    def _string(self, quote: str) -> Steps[bool]:
        """The rest of a string; false if the text ends in it."""
        self._write('"')
        while True:
            said, marker = self._cursor.upto(self._dialect.ends[quote])
            if said:
                self._write(quote_inside(said))
            if marker == quote:
                self._cursor.take(len(quote))
                self._write('"')
                return True
            if marker:
                yield from self._escape()
            elif self._cursor.ended:
                return False
            else:
                yield

    def _escape(self) -> Steps[None]:
        if self._dialect.verbatim and (said := self._cursor.now(JSON_ESCAPED)):
            self._write(said)
            return
        self._cursor.take(1)
        first = yield from self._cursor.peek()
        if first in self._dialect.escapes:
            self._cursor.take(1)
            self._write(self._dialect.escapes[first])
        elif first and first in self._dialect.hex_escapes:
            self._cursor.take(1)
            yield from self._code(first, HEX_ESCAPES[first])
        elif first:  # at the end of the text a backslash is nothing yet
            self._write("\\\\")

    def _code(self, letter: str, digits: int) -> Steps[None]:
        read = yield from self._digits(digits)
        code = int(read, 16) if len(read) == digits else -1
        if 0 <= code < 0x10000:
            self._write(f"\\u{code:04x}" if letter != "u" else f"\\u{read}")
        elif 0 <= code <= 0x10FFFF:
            self._write(chr(code))
        else:
            self._write(f"\\\\{letter}{read}")

    def _digits(self, most: int) -> Steps[str]:
        read = ""
        while len(read) < most:
            digit = yield from self._cursor.peek()
            if not (digit and HEXADECIMAL.fullmatch(digit)):
                break
            read += self._cursor.take(1)
        return read


def convert(text: str, dialect: Dialect) -> str | None:
    """The JSON of a text that is one value and nothing else; None if it is not."""
    cursor = Cursor()
    cursor.add(text.strip())
    cursor.ended = True
    written: list[str] = []
    whole = _result(ValueReader(cursor, dialect, written.append).read())
    return "".join(written) if whole and cursor.offset == len(text.strip()) else None


def _result(steps: Steps[bool]) -> bool:
    """Of a reader whose text has ended: it does not wait."""
    try:
        next(steps)
    except StopIteration as stop:
        return bool(stop.value)
    raise AssertionError("a reader waits for text after its end")
