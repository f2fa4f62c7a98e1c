"""How JSON is written where a schema leaves it open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """`whitespace` is a regex of what may stand, once, wherever JSON allows any; None fixes the separators. Without a
    bound a small model can go on with spaces for ever: the default lets it write on one line, or indented.

    Further bounds, off by default, are for models that find no end. `strings` in characters and `items` in entries, of
    arrays and of objects used as maps, hold where a schema says nothing; `closed` objects have no properties but those
    that are listed, and open values are no arrays or objects. What is so written satisfies the schema all the same.
    """

    whitespace: str | None = r"(?: |\n {0,32})"
    item_separator: str = ","
    key_separator: str = ":"
    strings: int | None = None
    items: int | None = None
    closed: bool = False

    @property
    def is_bounded(self) -> bool:
        return self.closed or self.strings is not None or self.items is not None


FLEXIBLE = Style()
FIXED = Style(None, ", ", ": ")  # as Python's json.dumps writes: every mark between values is forced
