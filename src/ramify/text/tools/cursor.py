"""Text that arrives in pieces, and a reader of it that can wait.

What reads is written as generators: a `yield` waits for more text, and after the end of the text nothing yields. A
format is thereby read by straight-line code, whatever the pieces it arrives in.

everything fed:   ....... left | held since the first pin | _text: read | unread
offset            0 ...............................          ^ _base      ^ _base + _at

Only what may have to be read again is kept: unread text, and text since the earliest pin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

SPACE = " \t\r\n"
SPACES = re.compile(f"[{SPACE}]*")
QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrtu])*"')
QUOTED_BEGUN = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrtu])*\\?')


class Markers:
    """Words to look for in text, the longest of several that begin at one place."""

    def __init__(self, words: Sequence[str]) -> None:
        ordered = sorted({word for word in words if word}, key=len, reverse=True)
        self.words = tuple(ordered)
        self.longest = max(map(len, ordered), default=0)
        self._whole = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        self._begun = re.compile(f"(?:{'|'.join(map(_beginnings, ordered))})" + r"\Z" if ordered else r"(?!)")

    def find(self, text: str, at: int) -> re.Match[str] | None:
        return self._whole.search(text, at)

    def begun(self, text: str, at: int) -> int:
        """Where the end of the text may be the beginning of a word; its length if nowhere."""
        found = self._begun.search(text, max(at, len(text) - self.longest + 1))
        return found.start() if found else len(text)


def _beginnings(word: str) -> str:
    """A pattern for every proper beginning of a word, the empty one apart."""
    pattern = ""
    for character in reversed(word[:-1]):
        pattern = re.escape(character) + (f"(?:{pattern})?" if pattern else "")
    return pattern or r"(?!)"


class Cursor:
    """The text of one generation and how far it has been read.

    `looked` counts the characters that were examined or copied: the work done, which a test holds linear in the text.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._base = 0
        self._pins: list[int] = []
        self._held: list[str] = []
        self.ended = False
        self.looked = 0

    @property
    def offset(self) -> int:
        """Characters read so far."""
        return self._base + self._at

    def add(self, text: str) -> None:
        if self._pins:
            self._held.append(self._text[max(self._pins[0] - self._base, 0) : self._at])
        self._base += self._at
        self.looked += len(self._text) - self._at
        self._text = self._text[self._at :] + text
        self._at = 0

    def pin(self) -> None:
        """Remember this place, to `rewind` to it or to `release` it. Pins nest."""
        self._pins.append(self.offset)

    def rewind(self) -> None:
        """Back to the last pin. Costs what was read since, and only if text arrived since."""
        place = self._pins.pop()
        if place < self._base:
            held = "".join(self._held)
            self._held.clear()
            self._text, self._base = held + self._text, self._base - len(held)
            self.looked += len(held)
        self._at = place - self._base
        self._forget()

    def release(self) -> int:
        """Give up the last pin; returns where it was."""
        place = self._pins.pop()
        self._forget()
        return place

    def _forget(self) -> None:
        if not self._pins:
            self._held.clear()

    def take(self, count: int) -> str:
        """The next characters, which must be there."""
        taken = self._text[self._at : self._at + count]
        self._at += count
        return taken

    def peek(self) -> Steps[str]:
        """The next character, unread; empty at the end."""
        while self._at == len(self._text):
            if self.ended:
                return ""
            yield
        self.looked += 1
        return self._text[self._at]

    def literal(self, word: str) -> Steps[bool]:
        """Read `word` if it comes next; else nothing."""
        while True:
            self.looked += len(word)
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return True
            if self.ended or not word.startswith(self._text[self._at : self._at + len(word)]):
                return False
            yield

    def space(self) -> Steps[str]:
        """All white space up to something else."""
        read = []
        while True:
            read.append(self._run(SPACES, len(self._text)))
            if self._at < len(self._text) or self.ended:
                return "".join(read)
            yield

    def _run(self, pattern: re.Pattern[str], end: int) -> str:
        found = pattern.match(self._text, self._at, end)
        count = found.end() - self._at if found else 0
        self.looked += count + 1
        return self.take(count)

    def run(self, pattern: re.Pattern[str], most: int) -> Steps[str]:
        """All of what a repeated character class matches, once something else follows; empty if more than `most`."""
        while True:
            read = self._run(pattern, self._at + most + 1)
            if len(read) > most:
                self._at -= len(read)
                return ""
            if self._at < len(self._text) or self.ended:
                return read
            self._at -= len(read)
            yield

    def quoted(self, most: int) -> Steps[str | None]:
        """A whole JSON string, decoded; None, and nothing read, if there is none or it is longer than `most`."""
        if (yield from self.peek()) != '"':
            return None
        while True:
            end = min(self._at + most, len(self._text))
            self.looked += end - self._at
            found = QUOTED.match(self._text, self._at, end)
            if found:
                return self._decoded(found.group())
            begun = QUOTED_BEGUN.fullmatch(self._text, self._at, end)
            if self.ended or not begun or end < len(self._text) or end - self._at == most:
                return None
            yield

    def _decoded(self, quoted: str) -> str | None:
        try:
            decoded: str = json.loads(quoted)
        except ValueError:  # \u without four digits
            return None
        self._at += len(quoted)
        return decoded

    def upto(self, markers: Markers) -> tuple[str, str]:
        """Read what stands before the next marker, or before what may become one. Does not wait.

        Returns it and the marker, unread; an empty marker asks to be called again when there is more text.
        """
        found = markers.find(self._text, self._at)
        begun = len(self._text) if self.ended else markers.begun(self._text, self._at)
        end = min(found.start(), begun) if found else begun
        self.looked += end - self._at + markers.longest
        return self.take(end - self._at), found.group() if found and found.start() == end else ""

    def now(self, pattern: re.Pattern[str]) -> str:
        """Read what a pattern matches in the text that is here. Does not wait."""
        found = pattern.match(self._text, self._at)
        read = found.group() if found else ""
        self._at += len(read)
        self.looked += len(read) + 1
        return read
