"""Stop strings and stop regexes over text that grows.

Strings run through an Aho-Corasick automaton (1975): one transition per character finds the match that completes
first, and the automaton's depth is the number of characters that may still become a match and are held back.

Regexes run in RE2, which is linear in the text whatever the pattern. After every piece of text the answer is that of a
search of all the text so far, whose end counts as an end (`$`, `\\b`). A match that is new ends where the new text
begins or later, so a pattern of bounded width is searched from that width before it on, with one character more for
`^` and `\\b` to look at: the whole generation costs (length + pieces x width). A pattern without a bound is searched
from the beginning each time.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramify.core.errors import BadRequest

UNBOUNDED = 4096  # a pattern that can match more characters than this is searched over the whole text
FOREIGN = re.compile(r"\[:|\{,")  # RE2 reads these otherwise than the parser that tells how wide a match can be
LOOKS = re.compile(r"\\[bB]")  # may look one character past the match


@dataclass(frozen=True)
class Hit:
    """A stop that completed: the text it matched, and where that begins and ends in the whole text."""

    matched: str
    start: int
    end: int


class Automaton:
    """All stop strings at once. `step` is pure; the caller keeps the state."""

    def __init__(self, words: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self._word: list[str | None] = [None]  # the longest stop string that ends in this state
        for word in words:
            self._add(word)
        self._fail = [0] * len(self._next)
        self._link()

    def _add(self, word: str) -> None:
        state = 0
        for character in word:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self.depth.append(self.depth[state] + 1)
                self._word.append(None)
            state = self._next[state][character]
        self._word[state] = word

    def _link(self) -> None:
        """Failure links, breadth first; a state also ends what its failure state ends."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            if self._word[state] is None:
                self._word[state] = self._word[self._fail[state]]
            for character, child in self._next[state].items():
                self._fail[child] = self.step(self._fail[state], character)
                queue.append(child)

    def step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(character, 0)

    def word(self, state: int) -> str | None:
        return self._word[state]


class Stops:
    """Watches the text of one generation.

    `feed` what is new; it answers with the stop that completed, if any. `safe` is how much of the text can no longer
    become part of a stop string, or of a regex match of bounded length; the rest must not be sent yet.
    """

    def __init__(self, strings: Sequence[str], patterns: Sequence[str]) -> None:
        self._automaton = Automaton(strings)
        self._state = 0
        widths = [_widest(pattern) for pattern in patterns]
        self._patterns = list(zip(compile_patterns(patterns), widths, strict=True))
        reach = [w - 1 + bool(LOOKS.search(p)) for p, w in zip(patterns, widths, strict=True) if w < UNBOUNDED]
        self._held = max(reach, default=0)
        self.text = ""
        self.safe = 0

    def feed(self, new: str) -> Hit | None:
        """Add text. After a hit the watching is over."""
        before = len(self.text)
        self.text += new
        hit = self._feed_strings(new, before)
        for pattern, width in self._patterns:
            found = self._search(pattern, 0 if width >= UNBOUNDED else max(before - width, 0))
            if found is not None and (hit is None or found.start < hit.start):
                hit = found
        self.safe = max(len(self.text) - max(self._automaton.depth[self._state], self._held), self.safe)
        return hit

    def _feed_strings(self, new: str, before: int) -> Hit | None:
        for offset, character in enumerate(new, 1):
            self._state = self._automaton.step(self._state, character)
            word = self._automaton.word(self._state)
            if word is not None:
                return Hit(word, before + offset - len(word), before + offset)
        return None

    def _search(self, pattern: Any, first: int) -> Hit | None:
        """The first match that begins at `first` or later."""
        seen = max(first - 1, 0)
        found = pattern.search(self.text[seen:], first - seen)
        return None if found is None else Hit(found.group(), seen + found.start(), seen + found.end())


def compile_patterns(patterns: Sequence[str]) -> list[Any]:
    """RE2 programs; raises `BadRequest` for what RE2 does not accept, such as backreferences."""
    if not patterns:
        return []
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re2.compile(pattern, options))
        except re2.error as e:
            reason = e.args[0].decode() if e.args and isinstance(e.args[0], bytes) else str(e)
            raise BadRequest(
                f"stop_regex {pattern!r} is not a valid RE2 expression: {reason}", param="stop_regex"
            ) from None
    return compiled


def _widest(pattern: str) -> int:
    """Most characters a pattern can match, at most `UNBOUNDED`; also that where Python cannot tell."""
    if FOREIGN.search(pattern):
        return UNBOUNDED
    try:
        return min(int(re._parser.parse(pattern).getwidth()[1]), UNBOUNDED)  # type: ignore[attr-defined]
    except (re.error, OverflowError, RecursionError):
        return UNBOUNDED
