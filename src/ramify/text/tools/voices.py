"""The two streams of text that an answer is told apart into. Both keep white space at their end to themselves until
something follows: before a call or after a thought nobody wants it.
"""

from __future__ import annotations

from collections.abc import Callable

from ramify.text.reasoning.count import TokenCount
from ramify.text.tools.cursor import SPACE
from ramify.text.tools.events import Event, Reasoning, Text

Emit = Callable[[Event], None]


class Trimmed:
    """Text without the white space at its end."""

    def __init__(self) -> None:
        self._space: list[str] = []

    def add(self, text: str) -> str:
        """More text; returns what can be said now."""
        body = text.rstrip(SPACE)
        if not body:
            self._space.append(text)
            return ""
        said = self.drop() + body
        self._space.append(text[len(body) :])
        return said

    def drop(self) -> str:
        """The white space that was kept, and no longer is."""
        kept = "".join(self._space)
        self._space.clear()
        return kept


class Content:
    """What is said to the user.

    spoken: there has been content, or a call
    after_call: and the last of it was a call
    line_begins: only white space since the last line break, call or end of reasoning
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._text = Trimmed()
        self.spoken = False
        self.after_call = False
        self.line_begins = True

    def say(self, text: str) -> None:
        said = self._text.add(text)
        if said:
            self._emit(Text(said))
            self.spoken, self.after_call = True, False
        if "\n" in text:
            self.line_begins = not text[text.rindex("\n") :].strip()
        elif said:
            self.line_begins = False

    def before_call(self) -> int:
        """A call follows; returns how many characters of white space before it go with it."""
        self.spoken = self.after_call = self.line_begins = True
        return len(self._text.drop())

    def between_blocks(self) -> None:
        """A block of reasoning begins or has ended here."""
        if self.after_call or not self.spoken:
            self._text.drop()
        self.line_begins = True

    def finish(self) -> None:
        kept = self._text.drop()
        if kept and not self.after_call:
            self._emit(Text(kept))


class Thoughts:
    """What is reasoned, block by block; with `whole`, each block in one piece when it ends."""

    def __init__(self, emit: Emit, whole: bool) -> None:
        self._emit = emit
        self._whole = whole
        self._text = Trimmed()
        self._pieces: list[str] = []
        self._since: int | None = None  # where the block began that goes on, in characters fed
        self._spans: list[tuple[int, int]] = []  # of blocks that are over

    @property
    def going_on(self) -> bool:
        return self._since is not None

    def begin(self, place: int) -> None:
        self._since = place

    def think(self, text: str) -> None:
        self._say(self._text.add(text))

    def _say(self, text: str) -> None:
        if self._whole:
            self._pieces.append(text)
        elif text:
            self._emit(Reasoning(text))

    def end(self, place: int) -> int:
        """The block is over; returns how many characters of white space at its end go unsaid."""
        assert self._since is not None
        self._spans.append((self._since, place))
        self._since = None
        whole = "".join(self._pieces)
        self._pieces.clear()
        if whole:
            self._emit(Reasoning(whole))
        return len(self._text.drop())

    def break_off(self, place: int) -> None:
        """The text is over, and the block with it."""
        self._say(self._text.drop())
        self.end(place)

    def tokens(self, count: TokenCount) -> int:
        """How many tokens all this was, marks included."""
        over = sum(count.between(start, end) for start, end in self._spans)
        return over if self._since is None else over + count.since(self._since)
