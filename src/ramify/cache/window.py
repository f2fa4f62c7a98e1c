"""Pages of layers that see only a window, and what of them the prefix cache can offer.

Such a layer needs of a request the last `window` positions and no more, so its pages are a group of their own: a
request gives back those that its window has left, while the pages of the full layers stay.

    position          0 ............................ computed - window ......... computed ... planned
    full group        |  tree  |  lease ..................................................|
    window group      |  (kept while there is room)  |  held by the lease ................|

The usable hit is the greatest length before which a whole window is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ramify.cache.beside import CountedPages
from ramify.cache.prefix import Match


@dataclass(frozen=True)
class WindowShape:
    """`pages` in the group's pool, `window` in tokens, the one that is computed included."""

    pages: int
    window: int


class WindowPages(CountedPages):
    rewinds = True
    overlaps = False

    def __init__(
        self, shape: WindowShape, page_size: int, freed: Callable[[Iterable[int]], None] | None = None
    ) -> None:
        super().__init__(shape.pages, page_size, freed)
        self.window = shape.window

    @property
    def free(self) -> int:
        return len(self.pool)

    @property
    def room(self) -> int:
        return self.available

    def _first(self, computed: int) -> int:
        """The first page that is needed to go on from position `computed`."""
        return max(computed - self.window + 1, 0) // self.page_size

    def usable(self, match: Match) -> int:
        """How many tokens of a match a request can go on from: before them the window is there."""
        best = run = 0
        for count, page in enumerate(match.pages, 1):
            run = run + 1 if page in self._of else 0
            if count - run <= self._first(count * self.page_size):
                best = count
        if best == len(match.pages) and (not match.extra or match.source in self._of):
            return match.tokens
        return best * self.page_size

    def foreseen(self, common: int, total: int) -> int:
        return common

    def enter(self, pages: Sequence[int]) -> list[int]:
        """Hold the window before the end of these full pages."""
        first = min(self._first(len(pages) * self.page_size), len(pages))
        return [0] * first + [self._use(page) for page in pages[first:]]

    def grow(self, held: list[int], count: int, marks: Collection[int]) -> bool:
        pages = self.take(count)
        if pages is None:
            return False
        held += pages
        return True

    def enough(self, held: Sequence[int], need: int) -> bool:
        """A request never holds much more than a window."""
        return min(need, -(-self.window // self.page_size) + 3) <= self.room

    def source(self, page: int) -> int:
        return self._use(page)

    def slide(self, held: list[int], first: int, computed: int) -> int:
        """Give back what lies before the window of position `computed`."""
        end = min(self._first(computed), len(held))
        for index in range(first, end):
            self.release([held[index]])
            held[index] = 0
        return max(first, end)

    def keep(self, pages: Sequence[int], held: Sequence[int], start: int, computed: int) -> int:
        for full, page in zip(pages, held[start:], strict=False):
            self._keep(full, page)
        return len(pages)
