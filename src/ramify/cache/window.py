"""Pages of layers that see only a window, and what of them the prefix cache can offer.

Such a layer needs of a request the last `window` positions and no more, so its pages are a group of their own: a
request gives back those that its window has left, while the pages of the full layers stay.

    position          0 ............................ computed - window ......... computed ... planned
    full group        |  tree  |  lease ..................................................|
    window group      |  (kept while there is room)  |  held by the lease ................|

A page is given back when nobody holds it: leases, copies under way and the cache each count as one holder. The cache
*keeps* the window page that belongs to a full page of the tree, by that page's number, for as long as the tree has
the full page or until the room is needed; the tree knows nothing of it. So a prefix may be in the tree and lack the
window that a request would need to go on from its end. What can be used of a match is therefore the greatest length
before which a whole window is there: `usable`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ramify.cache.pool import PagePool
from ramify.cache.prefix import Match

PLENTY = 1 << 60


@dataclass(frozen=True)
class WindowShape:
    """`pages` in the group's pool, `window` in tokens, the one that is computed included."""

    pages: int
    window: int


class WindowGroup(Protocol):
    """What the ledger asks of the second group of pages. A list of window pages stands beside a lease's full pages,
    entry for entry, with 0 where the window has left.
    """

    @property
    def free(self) -> int:
        """Pages that nobody holds."""

    @property
    def room(self) -> int:
        """Pages that can be had at once."""

    def usable(self, match: Match) -> int: ...
    def enter(self, pages: Sequence[int]) -> list[int]: ...
    def take(self, count: int) -> list[int] | None: ...
    def enough(self, need: int) -> bool: ...
    def source(self, page: int) -> int: ...
    def slide(self, held: list[int], first: int, computed: int) -> int: ...
    def keep(self, pages: Sequence[int], held: Sequence[int]) -> None: ...
    def release(self, pages: Iterable[int]) -> None: ...
    def forget(self, pages: Iterable[int]) -> None: ...
    def check(self, holders: Counter[int], kept: set[int]) -> list[str]: ...


class NoWindow:
    """All layers see everything."""

    free = room = PLENTY

    def usable(self, match: Match) -> int:
        return match.tokens

    def enter(self, pages: Sequence[int]) -> list[int]:
        return []

    def take(self, count: int) -> list[int]:
        return []

    def enough(self, need: int) -> bool:
        return True

    def source(self, page: int) -> int:
        return 0

    def slide(self, held: list[int], first: int, computed: int) -> int:
        return first

    def keep(self, pages: Sequence[int], held: Sequence[int]) -> None: ...
    def release(self, pages: Iterable[int]) -> None: ...
    def forget(self, pages: Iterable[int]) -> None: ...

    def check(self, holders: Counter[int], kept: set[int]) -> list[str]:
        return []


class WindowPages:
    """The pool of the group, who holds what of it, and what the cache keeps, the least recently used first."""

    def __init__(
        self, shape: WindowShape, page_size: int, freed: Callable[[Iterable[int]], None] | None = None
    ) -> None:
        self.pool = PagePool(shape.pages)
        self.pool.freed = freed
        self.page_size, self.window = page_size, shape.window
        self._holders: Counter[int] = Counter()
        self._kept: OrderedDict[int, int] = OrderedDict()  # window page -> full page
        self._of: dict[int, int] = {}  # full page -> window page
        self._idle = 0  # kept pages that nobody else holds

    @property
    def free(self) -> int:
        return len(self.pool)

    @property
    def room(self) -> int:
        return len(self.pool) + self._idle

    def _first(self, computed: int) -> int:
        """The first page that is needed to go on from position `computed`."""
        return max(computed - self.window + 1, 0) // self.page_size

    # -- what the cache can offer ------------------------------------------------------------------------------------

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

    def enter(self, pages: Sequence[int]) -> list[int]:
        """Hold the window before the end of these full pages, which `usable` allowed."""
        first = self._first(len(pages) * self.page_size)
        found = [self._of[page] for page in pages[first:]]
        for page in found:
            self._kept.move_to_end(page)
            self._hold(page)
        return [0] * min(first, len(pages)) + found

    def source(self, page: int) -> int:
        """Hold the window page of a full page that is going to be copied."""
        found = self._of[page]
        self._hold(found)
        return found

    def keep(self, pages: Sequence[int], held: Sequence[int]) -> None:
        """Full pages that the tree has, and window pages of the same tokens."""
        for full, page in zip(pages, held, strict=False):
            if page and full not in self._of and page not in self._kept:
                self._kept[page], self._of[full] = full, page
                self._holders[page] += 1

    def forget(self, pages: Iterable[int]) -> None:
        """Full pages that the tree has no more."""
        for full in pages:
            if full in self._of:
                self._drop(self._of[full])

    # -- holding -----------------------------------------------------------------------------------------------------

    def take(self, count: int) -> list[int] | None:
        """Pages of one's own; what the cache keeps gives way. None, and nothing is done, where there are too few."""
        if count > self.room:
            return None
        while len(self.pool) < count:
            page = next(iter(self._kept))
            if self._holders[page] == 1:
                self._drop(page)
            else:
                self._kept.move_to_end(page)  # in use
        pages = self.pool.take(count)
        assert pages is not None
        self._holders.update(pages)
        return pages

    def enough(self, need: int) -> bool:
        """Whether a request that will fill `need` more pages can be started: it never holds much more than a window."""
        return min(need, -(-self.window // self.page_size) + 3) <= self.room

    def slide(self, held: list[int], first: int, computed: int) -> int:
        """Give back what lies before the window of position `computed`; `first` is where this ended the last time."""
        end = min(self._first(computed), len(held))
        for index in range(first, end):
            self.release([held[index]])
            held[index] = 0
        return max(first, end)

    def release(self, pages: Iterable[int]) -> None:
        for page in pages:
            if not page:
                continue
            self._holders[page] -= 1
            left = self._holders[page]
            if left == 0:
                del self._holders[page]
                self.pool.give([page])
            elif left == 1 and page in self._kept:
                self._idle += 1

    def _hold(self, page: int) -> None:
        if self._holders[page] == 1 and page in self._kept:
            self._idle -= 1
        self._holders[page] += 1

    def _drop(self, page: int) -> None:
        """The cache keeps it no longer."""
        if self._holders[page] == 1:
            self._idle -= 1
        del self._of[self._kept.pop(page)]
        self.release([page])

    # -- proving -----------------------------------------------------------------------------------------------------

    def check(self, holders: Counter[int], kept: set[int]) -> list[str]:
        """What is wrong. `holders` counts leases and copies by page, `kept` are the full pages of the tree."""
        expected = holders + Counter(self._kept.keys())
        wrong = []
        if {page: n for page, n in self._holders.items() if n} != dict(expected):
            wrong.append("window pages are counted more or less often than they are held")
        if self._idle != sum(self._holders[page] == 1 for page in self._kept):
            wrong.append("idle window pages are miscounted")
        if sorted([*expected, *self.pool.free_pages()]) != list(range(1, self.pool.total + 1)):
            wrong.append("a window page is free and held, or neither")
        if not self._of.keys() <= kept:
            wrong.append("a window page is kept for a page that the tree does not have")
        return wrong
