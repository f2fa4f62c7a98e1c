"""How JSON is written where a schema leaves it open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """`whitespace` is a regex of what may stand, once, wherever JSON allows any; None fixes the separators. Without a
    bound a small model can go on with spaces for ever: the default lets it write on one line, or indented.

    Further bounds, off by default, are for models that find no end. `strings` in characters, `digits` of numbers and
    `items` in entries, of arrays and of objects used as maps, hold where a schema says nothing. With `closed`, objects
    have no properties but those that are listed, open values are no arrays or objects, and values without a type are
    of one that their schema says something of.
    What is so written satisfies the schema all the same.
    """

    whitespace: str | None = r"(?: |\n {0,32})"
    item_separator: str = ","
    key_separator: str = ":"
    strings: int | None = None
    items: int | None = None
    digits: int | None = None
    closed: bool = False

    @property
    def is_bounded(self) -> bool:
        return self.closed or any(bound is not None for bound in (self.strings, self.items, self.digits))


FLEXIBLE = Style()
FIXED = Style(None, ", ", ": ")  # as Python's json.dumps writes: every mark between values is forced
