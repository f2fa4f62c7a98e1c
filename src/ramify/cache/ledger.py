"""Who holds which page: leases of running requests, the prefix cache, and what waits for a step in flight.

    a request's page table:   | matched | copied | ........ own ........ |
    whose page it is:         |  tree   |              lease              |   while it runs
                              |       tree (published)   |     lease      |   after a chunk of its prompt
                              |               tree              |  limbo  |   closed, a step in flight
                              |               tree              |  pool   |   closed, settled

A page goes back to the pool only when no step in flight reads or writes it. A closed lease therefore stays in *limbo*
until the last step that touched it is settled: its pages are not free, and what it gave to the tree stays locked.
Only committed tokens are ever published or inserted, so a match never promises what a step in flight may still fail
to write.

Layers that see only a window, or keep a state, have pages of their own, a second group, one for each page of the first:
see `beside`, `window` and `state`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ramify.cache.beside import Beside, NothingBeside
from ramify.cache.pool import PagePool
from ramify.cache.prefix import TOKEN_BYTES, Match, NoPrefix, PrefixCache, Taken
from ramify.cache.state import StatePages, StateShape, last_mark
from ramify.cache.tree import RadixTree
from ramify.cache.window import WindowPages, WindowShape
from ramify.wire.plan import PageCopy

AHEAD = 16  # tokens; pages of this size and above are taken one by one
FULL = 0  # the group of ordinary attention layers: every position, for ever
BESIDE = 1  # the second group: of layers with a window, or of those that keep a state


@dataclass(slots=True, eq=False)
class Lease:
    """The pages of one running request: position p stands in `pages[p // page_size]`.

    The first `published` pages belong to the tree and are held through `node`; the rest is the lease's own. `granted`
    pages have been told to the worker. `start` is the first position that has to be computed; full pages
    before `read_until` hold what they should already. `beside` are the pages of the second group: of those before index
    `slid` it holds none, and of those before `kept` the cache has what it wants. `marks`: see `state`.
    """

    salt: str
    node: Any
    pages: list[int]
    published: int
    start: int
    read_until: int = 0
    beside: list[int] = field(default_factory=list)
    marks: frozenset[int] = frozenset()
    slid: int = 0
    kept: int = 0
    granted: int = 0
    private: bool = False  # somebody else published the same tokens first: the rest stays unshared until the end


@dataclass(slots=True)
class _Limbo:
    step: int
    nodes: list[Any]
    pages: list[int] = field(default_factory=list)
    beside: list[int] = field(default_factory=list)


class Ledger:
    """The one writer of page ownership.

    `pages` is the size of the pool, `page_size` in tokens. `freed`, if given, is told of every page that returns, by
    group. `beside`: there is a second group.
    """

    def __init__(
        self,
        pages: int,
        page_size: int,
        *,
        reuse: bool = True,
        beside: WindowShape | StateShape | None = None,
        freed: Callable[[int, Iterable[int]], None] | None = None,
    ) -> None:
        self.page_size = page_size
        self.reuse = reuse
        self._shape = beside
        self._freed = freed
        self._build(pages)

    def _build(self, pages: int) -> None:
        self.pool = PagePool(pages)
        self.pool.freed = self._returned
        self.beside = self._build_beside()
        self.cache: PrefixCache = RadixTree(self.pool, self.page_size) if self.reuse else NoPrefix()
        self.settled = 0
        self._leases: set[Lease] = set()
        self._limbo: list[_Limbo] = []
        self._copies: dict[int, Any] = {}  # ticket -> source node
        self._copies_beside: dict[int, int] = {}  # ticket -> source page
        self._tickets = 0

    def _build_beside(self) -> Beside:
        freed = None if self._freed is None else partial(self._freed, BESIDE)
        match self._shape:
            case WindowShape():
                return WindowPages(self._shape, self.page_size, freed)
            case StateShape():
                return StatePages(self._shape, self.page_size, freed)
        return NothingBeside()

    def _returned(self, pages: Iterable[int]) -> None:
        self.beside.forget(pages)
        if self._freed is not None:
            self._freed(FULL, pages)

    # -- how much there is -----------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        return self.pool.total

    @property
    def available(self) -> int:
        """Pages that can be had at once: free ones and idle ones of the cache."""
        return len(self.pool) + self.cache.pages - self.cache.locked

    @property
    def room(self) -> int:
        """By how many pages a lease can grow at once, in every group."""
        return min(self.available, self.beside.room)

    def has_room(self, lease: Lease, tokens: int) -> bool:
        """Whether a lease could come to hold so many tokens."""
        need = self.pages_for(tokens) - len(lease.pages)
        return need <= self.available and self.beside.enough(lease.beside, need)

    @property
    def rewinds(self) -> bool:
        """Whether a request can go back to a position that it has computed: guesses may turn out wrong."""
        return self.beside.rewinds

    @property
    def in_limbo(self) -> bool:
        """True where settling the steps in flight will bring pages back."""
        return bool(self._limbo or self._copies)

    @property
    def used(self) -> int:
        """Pages that running requests hold."""
        return self.total - self.available

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    # -- the life of a lease -----------------------------------------------------------------------------------------

    def match(self, key: bytes, salt: str) -> Match:
        """What the cache has of `key`, in every group; the caller cuts `key` to what it may use."""
        found = self.cache.match(key, salt)
        usable = self.beside.usable(found)
        if usable == found.tokens:
            return found
        if self.beside.overlaps:
            return replace(found, tokens=usable, extra=0, source=0, source_node=None)
        return self.cache.match(key[: usable * TOKEN_BYTES], salt)

    def will_share(self, common: int, total: int) -> int:
        """Of `common` tokens, those that others will find once a request of `total` tokens has caught up: it publishes
        whole pages.
        """
        return self.beside.foreseen(min(common, total // self.page_size * self.page_size), total)

    def open(self, match: Match, tokens: int = 0) -> tuple[Lease, list[PageCopy]]:
        """Lease the matched pages for a request of `tokens`, and a page to copy the extra ones to where one can be had.

        The copies have to run before the request computes anything; `copied` lets go of their sources.
        """
        start = min(match.tokens // self.page_size, len(match.pages))
        lease = Lease(match.salt, self.cache.lock(match), list(match.pages), len(match.pages), start * self.page_size)
        lease.read_until, lease.kept = len(lease.pages) * self.page_size, start
        lease.marks = frozenset((len(lease.pages), last_mark(tokens, self.page_size)))
        lease.beside = self.beside.enter(lease.pages[:start])
        if not self.beside.grow(lease.beside, len(lease.pages) - start, lease.marks):
            self._release([lease.node], [], lease.beside)
            return self.open(Match(match.salt), tokens)
        self._leases.add(lease)
        return lease, self._copy_extra(lease, match)

    def _copy_extra(self, lease: Lease, match: Match) -> list[PageCopy]:
        if not match.extra:
            return []
        self.cache.hold(match.source_node)  # before anything is evicted to make room
        source = self.beside.source(match.source)
        if not self._add_pages(lease, 1):
            self.cache.unlock(match.source_node)
            self.beside.release([source])
            return []
        lease.start += match.extra
        self._tickets += 1
        self._copies[self._tickets] = match.source_node
        copies = [PageCopy(FULL, match.source, lease.pages[-1], self._tickets)]
        if source:
            self._tickets += 1
            self._copies_beside[self._tickets] = source
            copies.append(PageCopy(BESIDE, source, lease.beside[-1], self._tickets))
        return copies

    def cancel(self, lease: Lease, copies: list[PageCopy]) -> None:
        """Undo `open` in the same plan: nothing was sent to the worker."""
        self._leases.remove(lease)
        self.copied([copy.ticket for copy in copies])
        self._release([lease.node], lease.pages[lease.published :], lease.beside)

    def grow(self, lease: Lease, tokens: int) -> bool:
        """Make room for `tokens` positions; False, and nothing is done, where there are not enough pages.

        Where pages lie free, a request that asks for one gets a few tokens' worth, so that it asks less often.
        """
        need = -(-tokens // self.page_size) - len(lease.pages)
        if need <= 0:
            return True
        if need * self.page_size < AHEAD <= min(len(self.pool), self.beside.free) * self.page_size:
            need = AHEAD // self.page_size
        return self._add_pages(lease, need)

    def _add_pages(self, lease: Lease, count: int) -> bool:
        """In every group, or in none."""
        if count > self.available or not self.beside.grow(lease.beside, count, lease.marks):
            return False
        pages = self._take(count)
        assert pages is not None, "so many were available"
        lease.pages += pages
        return True

    def slide(self, lease: Lease, computed: int) -> None:
        """Give back what is behind in the second group: no step, in flight or to come, computes a position before
        `computed`.
        """
        lease.slid = self.beside.slide(lease.beside, lease.slid, computed)

    def ungranted(self, lease: Lease) -> list[tuple[int, list[int]]]:
        """Pages that the worker has not been told of, by group; they count as told from now on."""
        new = [(FULL, lease.pages[lease.granted :]), (BESIDE, lease.beside[lease.granted :])]
        lease.granted = len(lease.pages)
        return [(group, pages) for group, pages in new if pages]

    def publish(self, lease: Lease, key: bytes, computed: int) -> None:
        """Share the whole pages among the first `computed` positions, all committed, while the request goes on."""
        whole = computed // self.page_size
        if whole > lease.published and not lease.private:
            self._extend(lease, key, whole)
        shared = lease.pages[lease.kept : min(whole, lease.published)]
        lease.kept += self.beside.keep(shared, lease.beside, lease.kept, computed)

    def _extend(self, lease: Lease, key: bytes, whole: int) -> None:
        at = self.page_size * TOKEN_BYTES
        pages = lease.pages[lease.published : whole]
        node = self.cache.extend(lease.node, key[lease.published * at : whole * at], pages)
        if node is None:
            lease.private = True
        else:
            lease.node, lease.published = node, whole

    def close(self, lease: Lease, key: bytes, computed: int, last_step: int) -> None:
        """End a lease: the tokens of `key` at the first `computed` positions go to the cache, other pages to the pool.

        `last_step` is the last step that reads or writes its pages; until that is settled nothing of it is free.
        """
        self._leases.remove(lease)
        offered = lease.pages[: self.pages_for(computed)]
        taken = self.cache.insert(key[: computed * TOKEN_BYTES], offered, lease.salt)
        self._keep_beside(lease, key[: computed * TOKEN_BYTES], computed, taken)
        first, last = max(taken.first, lease.published), max(taken.last, lease.published)
        left = lease.pages[lease.published : first] + lease.pages[last:]
        nodes = [lease.node]
        if last_step <= self.settled:
            self._release(nodes, left, lease.beside)
            return
        if taken.node is not None:
            self.cache.hold(taken.node)
            nodes.append(taken.node)
        self._limbo.append(_Limbo(last_step, nodes, left, lease.beside))

    def _keep_beside(self, lease: Lease, key: bytes, computed: int, taken: Taken) -> None:
        """The tree may have had the same tokens on other pages, and nothing that belongs to them: now it has."""
        if lease.beside:
            self.beside.keep(lease.pages[taken.first : taken.last], lease.beside, taken.first, computed)
            self.beside.keep(self.cache.match(key, lease.salt).pages, lease.beside, 0, computed)

    def settle(self, step: int) -> None:
        """Step `step` and all before it are over: what only they touched is free."""
        self.settled = step
        if not self._limbo:
            return
        over = [entry for entry in self._limbo if entry.step <= step]
        self._limbo = [entry for entry in self._limbo if entry.step > step]
        for entry in over:
            self._release(entry.nodes, entry.pages, entry.beside)

    def copied(self, tickets: list[int]) -> None:
        """These copies are done: their sources may go."""
        for ticket in tickets:
            if ticket in self._copies_beside:
                self.beside.release([self._copies_beside.pop(ticket)])
            else:
                self.cache.unlock(self._copies.pop(ticket))

    def _take(self, count: int) -> list[int] | None:
        short = count - len(self.pool)
        if short > 0 and self.cache.pages - self.cache.locked >= short:
            self.cache.evict(short)
        return self.pool.take(count)

    def _release(self, nodes: list[Any], pages: list[int], beside: list[int]) -> None:
        for node in nodes:
            self.cache.unlock(node)
        self.pool.give(pages)
        self.beside.release(beside)

    # -- upkeep ------------------------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Forget every prefix that nobody uses; returns the number of pages."""
        return self.cache.evict(self.cache.pages - self.cache.locked)

    def check(self) -> list[str]:
        """Prove conservation: every page is in exactly one place and every lock has a holder. Returns what is wrong."""
        held: Counter[Any] = Counter(lease.node for lease in self._leases)
        held.update(node for entry in self._limbo for node in entry.nodes)
        held.update(self._copies.values())
        kept, wrong = self.cache.check(held)
        lists = [*(lease.beside for lease in self._leases), *(entry.beside for entry in self._limbo)]
        wrong += self.beside.check(lists, self._copies_beside.values(), set(kept))
        places = {"free": self.pool.free_pages(), "in the cache": kept}
        places["leased"] = [page for lease in self._leases for page in lease.pages[lease.published :]]
        places["in limbo"] = [page for entry in self._limbo for page in entry.pages]
        seen = Counter(page for pages in places.values() for page in pages)
        for page in range(1, self.total + 1):
            if seen[page] != 1:
                where = [name for name, pages in places.items() if page in pages]
                wrong.append(f"page {page} is in {seen[page]} places: {', '.join(where) or 'nowhere'}")
        return wrong

    def rebuild(self) -> None:
        """Start over with an empty cache. Only at idle, when no request holds a lease and no step is in flight."""
        settled = self.settled
        self._build(self.total)
        self.settled = settled
