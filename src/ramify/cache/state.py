"""Slots of layers that keep a state instead of positions, and the states that the prefix cache can offer.

Such a layer (Mamba 2, gated delta net) needs of a request one state, of all positions before. It cannot be taken back,
only kept: a *snapshot* is a state at the end of a page. Slots stand beside the full pages, entry for entry: an entry
names the slot with the state behind the last position of that page that is computed. Pages share a slot, the later one
writing over the earlier, unless the state between them is wanted:

    position       0 ............ 256 .......... 400 ... 410
    full pages     |  1 |  2 | ...  | 17 | ...   | 26 | 27          page size 16
    slots          |  5 |  5 | ...  |  8 | ...   |  8 |  9          5: the state at 256, 8: at 400, 9: the live one

So a step reads the slot of the position before its first and writes the slots of the pages it computes; nothing is ever
copied. States are wanted at multiples of `interval`, and at *marks*: the last boundary within what a request catches up
to, and where its way parts from what the tree has. The usable hit is the greatest length with a state at its end; full
pages that match beyond it are read as they are, while the states behind them are computed once more.

Where slots are short, states between pages are not kept: a request needs one slot, and a second one while the first is
somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ramify.cache.beside import PLENTY, CountedPages
from ramify.cache.prefix import Match


@dataclass(frozen=True)
class StateShape:
    """`slots` in the group's pool; a state is wanted every `interval` tokens."""

    slots: int
    interval: int


class StatePages(CountedPages):
    rewinds = False
    overlaps = True

    def __init__(self, shape: StateShape, page_size: int, freed: Callable[[Iterable[int]], None] | None = None) -> None:
        super().__init__(shape.slots, page_size, freed)
        self._every = -(-shape.interval // page_size)  # pages

    @property
    def free(self) -> int:
        return PLENTY

    @property
    def room(self) -> int:
        """With one slot a list can grow for ever."""
        return PLENTY if self.available else 0

    def usable(self, match: Match) -> int:
        best = max((count for count, page in enumerate(match.pages, 1) if page in self._of), default=0)
        return best * self.page_size

    def foreseen(self, common: int, total: int) -> int:
        last, every = last_mark(total, self.page_size) * self.page_size, self._every * self.page_size
        return max(common // every * every, last if last <= common else 0)

    def enter(self, pages: Sequence[int]) -> list[int]:
        return [0] * (len(pages) - 1) + [self._use(pages[-1])] if pages else []

    def grow(self, held: list[int], count: int, marks: Collection[int]) -> bool:
        for index in range(len(held), len(held) + count):
            before = held[-1] if held else 0
            wanted = index % self._every == 0 or index in marks
            slot = before if before and not wanted and self._is_own(before) else self._next(before)
            if not slot:
                return False  # the first of these: behind a slot of one's own there is always one
            held.append(slot)
        return True

    def _is_own(self, slot: int) -> bool:
        return self._holders[slot] == 1

    def _next(self, before: int) -> int:
        """A slot for the page behind one whose state is wanted; the same where there is no other. 0: not even that."""
        if taken := self.take(1):
            return taken[0]
        if before in self._kept and self._holders[before] == 2:
            self._drop(before)
        return before if before and self._is_own(before) else 0

    def enough(self, held: Sequence[int], need: int) -> bool:
        return need <= 0 or self.available > 0 or bool(held and self._is_own(held[-1]))

    def source(self, page: int) -> int:
        raise AssertionError("states are not copied: a match ends at a page")

    def slide(self, held: list[int], first: int, computed: int) -> int:
        """Give back states before the one that the next step reads; but the last of them that the cache does not keep
        yet stays, until the request ends or a later one is there.
        """
        end = min(max(computed - 1, 0) // self.page_size, len(held) - 1)
        spare = -1
        for index in range(first, end):
            if held[index] == held[index + 1]:
                held[index] = 0  # the slot goes on
            elif held[index]:
                if spare >= 0:
                    self._let_go(held, spare)
                spare = index
                if held[index] in self._kept:
                    self._let_go(held, spare)
                    spare = -1
        return spare if spare >= 0 else max(first, end)

    def _let_go(self, held: list[int], index: int) -> None:
        self.release([held[index]])
        held[index] = 0

    def keep(self, pages: Sequence[int], held: Sequence[int], start: int, computed: int) -> int:
        """A state is final where its page is computed and the next has another slot."""
        for done, (index, full) in enumerate(enumerate(pages, start)):
            if index + 1 >= len(held) or (index + 1) * self.page_size > computed:
                return done
            if held[index] != held[index + 1]:
                self._keep(full, held[index])
        return len(pages)


def last_mark(tokens: int, page_size: int) -> int:
    """Whole pages before the last of `tokens`, which is always computed."""
    return max(tokens - 1, 0) // page_size
