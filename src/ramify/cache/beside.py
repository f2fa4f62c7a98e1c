"""What layers that are not full attention keep: a second group of pages beside the full ones, entry for entry.

A lease has a list of the group's pages beside its full pages, with 0 where the group has nothing to hold any more.
Several may hold a page: leases, copies under way, and the cache, which *keeps* the page that belongs to a full page of
the tree, by that page's number, for as long as the tree has it or until the room is needed, the least recently used
first. The tree knows nothing of it. So a prefix may be in the tree and lack what a request needs to go on from its end:
what can be used of a match is the greatest length that is valid in every group.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from ramify.cache.pool import PagePool
from ramify.cache.prefix import Match

PLENTY = 1 << 60


class Beside(Protocol):
    """What the ledger asks of the second group of pages."""

    rewinds: bool  # a request can go back to any position that it has computed: guesses can be taken back
    overlaps: bool  # what a match has beyond `usable` is of use: full pages are read where only the group computes

    @property
    def free(self) -> int:
        """Pages that nobody holds."""

    @property
    def room(self) -> int:
        """By how many entries a list can grow at once."""

    def usable(self, match: Match) -> int:
        """How many tokens of a match a request can go on from."""

    def foreseen(self, common: int, total: int) -> int:
        """How much of `common` tokens another request will find once one of `total` tokens has caught up."""

    def enter(self, pages: Sequence[int]) -> list[int]:
        """Hold what is needed to go on from the end of these full pages, which `usable` allowed."""

    def grow(self, held: list[int], count: int, marks: Collection[int]) -> bool:
        """Add entries; False, and nothing is done, where there are too few pages. `marks` are numbers of pages after
        which somebody may want to go on.
        """

    def enough(self, held: Sequence[int], need: int) -> bool:
        """Whether a request that will fill `need` more pages can be started."""

    def source(self, page: int) -> int:
        """Hold the page that belongs to a full page that is going to be copied; 0: there is none to copy."""

    def slide(self, held: list[int], first: int, computed: int) -> int:
        """Give back what is behind; `first` is what this returned the last time. No step, in flight or to come,
        computes a position before `computed`.
        """

    def keep(self, pages: Sequence[int], held: Sequence[int], start: int, computed: int) -> int:
        """Full pages that the tree has, and what belongs to them, from entry `start` of the list on; `computed`
        positions are committed. Returns of how many of them it is decided.
        """

    def release(self, pages: Iterable[int]) -> None: ...

    def forget(self, pages: Iterable[int]) -> None:
        """Full pages that the tree has no more."""

    def check(self, lists: Iterable[Sequence[int]], sources: Iterable[int], kept: set[int]) -> list[str]:
        """What is wrong. `lists` are those of leases, `sources` of copies, `kept` the full pages of the tree."""


class NothingBeside:
    """All layers see everything."""

    free = room = PLENTY
    rewinds = True
    overlaps = False

    def usable(self, match: Match) -> int:
        return match.tokens

    def foreseen(self, common: int, total: int) -> int:
        return common

    def enter(self, pages: Sequence[int]) -> list[int]:
        return []

    def grow(self, held: list[int], count: int, marks: Collection[int]) -> bool:
        return True

    def enough(self, held: Sequence[int], need: int) -> bool:
        return True

    def source(self, page: int) -> int:
        return 0

    def slide(self, held: list[int], first: int, computed: int) -> int:
        return first

    def keep(self, pages: Sequence[int], held: Sequence[int], start: int, computed: int) -> int:
        return len(pages)

    def release(self, pages: Iterable[int]) -> None: ...
    def forget(self, pages: Iterable[int]) -> None: ...

    def check(self, lists: Iterable[Sequence[int]], sources: Iterable[int], kept: set[int]) -> list[str]:
        return []


class CountedPages:
    """The pool of a group, who holds what of it, and what the cache keeps, the least recently used first."""

    def __init__(self, pages: int, page_size: int, freed: Callable[[Iterable[int]], None] | None) -> None:
        self.pool = PagePool(pages)
        self.pool.freed = freed
        self.page_size = page_size
        self._holders: Counter[int] = Counter()
        self._kept: OrderedDict[int, int] = OrderedDict()  # page of this group -> full page
        self._of: dict[int, int] = {}  # the other way round
        self._idle = 0  # kept pages that nobody else holds

    @property
    def available(self) -> int:
        """Pages that can be had at once: what the cache keeps gives way."""
        return len(self.pool) + self._idle

    def take(self, count: int) -> list[int] | None:
        """Pages of one's own. None, and nothing is done, where there are too few."""
        if count > self.available:
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

    def forget(self, pages: Iterable[int]) -> None:
        for full in pages:
            if full in self._of:
                self._drop(self._of[full])

    def release(self, pages: Iterable[int]) -> None:
        """One holder less of each of these; 0 is none, and a list may name one in several entries."""
        for page in dict.fromkeys(pages):
            if not page:
                continue
            self._holders[page] -= 1
            left = self._holders[page]
            if left == 0:
                del self._holders[page]
                self.pool.give([page])
            elif left == 1 and page in self._kept:
                self._idle += 1

    def _use(self, full: int) -> int:
        """Hold the page that the cache keeps for a full one."""
        page = self._of[full]
        self._kept.move_to_end(page)
        if self._holders[page] == 1:
            self._idle -= 1
        self._holders[page] += 1
        return page

    def _keep(self, full: int, page: int) -> None:
        if page and full not in self._of and page not in self._kept:
            self._kept[page], self._of[full] = full, page
            self._holders[page] += 1

    def _drop(self, page: int) -> None:
        """The cache keeps it no longer."""
        if self._holders[page] == 1:
            self._idle -= 1
        del self._of[self._kept.pop(page)]
        self.release([page])

    def check(self, lists: Iterable[Sequence[int]], sources: Iterable[int], kept: set[int]) -> list[str]:
        expected = Counter(self._kept.keys())
        expected.update(sources)
        for held in lists:
            expected.update({page for page in held if page})
        wrong = []
        if {page: n for page, n in self._holders.items() if n} != dict(expected):
            wrong.append("pages of the second group are counted more or less often than they are held")
        if self._idle != sum(self._holders[page] == 1 for page in self._kept):
            wrong.append("idle pages of the second group are miscounted")
        if sorted([*expected, *self.pool.free_pages()]) != list(range(1, self.pool.total + 1)):
            wrong.append("a page of the second group is free and held, or neither")
        if not self._of.keys() <= kept:
            wrong.append("something is kept for a page that the tree does not have")
        return wrong
