"""The radix tree: which pages hold which prefix (RadixAttention: Zheng et al. 2024, section 3).

With pages of four tokens:

    root ── You are a help│ful assist ant . ──┬── What is 2 +│ 2 ?          pages 11, 12 (12 is a partial tail)
            page 7          page 9            ├── What is the time          page 13
                                              └── Wh                        page 30, a partial tail

* An edge is a run of tokens and the pages that hold them. Edges split at page boundaries only, so siblings may begin
  with the same tokens inside their first page; no two of them share that whole page.
* Only the last page of a leaf may be partly filled: a *tail*. A tail with which a fuller page begins is *dominated*:
  it is released when the fuller page is inserted, and not inserted where the fuller page is there.
* A match is token-exact: whole pages, then a source page whose first `extra` tokens match too. The caller takes
  those over by copying the page, and holds the source until the copy is done.
* A locked node and all its ancestors are in use: their pages are not evicted. What is not locked is a cache; leaves
  go first, the least recently used first, from their end.

Keys are token ids packed as 4 bytes each: a page's key is a slice and comparing is memcmp. Prefixes of different salts
share nothing but the pool.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

from ramify.cache.pool import PagePool
from ramify.cache.prefix import TOKEN_BYTES, Match, Taken


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as a key."""
    return array("i", tokens).tobytes()


def common_bytes(a: bytes, b: bytes) -> int:
    """Length of the common prefix, by halving: every comparison is one memcmp."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Node:
    """An edge and what hangs below it. `locks` counts the holders of this node and of all nodes below."""

    __slots__ = ("children", "key", "locks", "order", "pages", "parent", "queued", "used")

    def __init__(self, parent: Node | None, key: bytes, pages: list[int], used: int) -> None:
        self.parent = parent
        self.key = key  # of a root, its salt
        self.pages = pages
        self.children: dict[bytes, Node] = {}  # by the key of the child's first page, which may be a tail
        self.order: list[bytes] = []  # the same keys, sorted: the neighbours of a query share the most with it
        self.locks = 0
        self.used = used
        self.queued = False

    @property
    def evictable(self) -> bool:
        return not self.locks and not self.children and self.parent is not None

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, the root last."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class RadixTree:
    """A prefix cache over the pages of one pool."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self.pool = pool
        self.page_bytes = page_size * TOKEN_BYTES
        self.pages = 0  # held by the tree
        self.locked = 0  # of these, on locked nodes
        self.version = 0  # grows whenever what can be matched changes
        self._roots: dict[bytes, Node] = {}
        self._clock = 0
        self._leaves: list[tuple[int, int, Node]] = []  # a heap whose stale entries `evict` recognises
        self._tick = count()

    # -- finding -------------------------------------------------------------------------------------------------

    def match(self, key: bytes, salt: str = "") -> Match:
        """The longest prefix of `key` that is here. Reads only: `touch` or `lock` what is going to be used."""
        found = Match(salt)
        node = self._roots.get(salt.encode())
        if node is None:
            return found
        node, inside, at = self._walk(node, key, found.pages)
        found.node, found.inside = node, inside
        rest = key[at : at + self.page_bytes]
        if inside:
            self._look_inside(found, node, inside, rest)
        else:
            self._look_among(found, node, rest)
        found.tokens = at // TOKEN_BYTES + found.extra
        return found

    def _walk(self, node: Node, key: bytes, pages: list[int]) -> tuple[Node, int, int]:
        """Follow `key` by whole pages, which are added to `pages`.

        Returns the last node reached, how many pages of its edge are matched if not all (else 0), and the bytes done.
        """
        at = 0
        while child := node.children.get(key[at : at + self.page_bytes]):
            whole = common_bytes(child.key, key[at : at + len(child.key)]) // self.page_bytes
            if not whole:
                break  # the child is a tail and so is the end of the key
            pages += child.pages[:whole]
            at += whole * self.page_bytes
            if whole < len(child.pages):
                return child, whole, at
            node = child
        return node, 0, at

    def _look_inside(self, found: Match, node: Node, page: int, rest: bytes) -> None:
        """The edge goes on with another page: how much of it begins like `rest`?"""
        start = page * self.page_bytes
        found.extra = common_bytes(node.key[start : start + self.page_bytes], rest) // TOKEN_BYTES
        if found.extra:
            found.source_node, found.source = node, node.pages[page]

    def _look_among(self, found: Match, node: Node, rest: bytes) -> None:
        """Which child's first page begins most like `rest`? In sorted order it is one of the two neighbours."""
        at = bisect_left(node.order, rest)
        for first in node.order[max(at - 1, 0) : at + 1]:
            extra = common_bytes(first, rest) // TOKEN_BYTES
            if extra > found.extra:
                child = node.children[first]
                found.extra, found.source_node, found.source = extra, child, child.pages[0]

    def touch(self, match: Match) -> None:
        """Say that a match is wanted: its path is now the most recently used."""
        self._clock += 1
        end: Node | None = match.source_node or match.node
        for node in end.path() if end is not None else ():
            node.used = self._clock

    # -- holding -------------------------------------------------------------------------------------------------

    def lock(self, match: Match) -> Node:
        """Hold the whole pages of a match, splitting the edge it ends inside of. Returns the node to `unlock`.

        Where `source_node` is the node that is split, it keeps the source page.
        """
        node = match.node if match.node is not None else self._root(match.salt.encode())
        if match.inside:
            node = self._split(node, match.inside)
        match.node, match.inside = node, 0
        self.hold(node)
        return node

    def hold(self, node: Node) -> None:
        """Lock a node and its ancestors once more."""
        self._clock += 1
        for step in node.path():
            if not step.locks:
                self.locked += len(step.pages)
            step.locks += 1
            step.used = self._clock

    def unlock(self, node: Node) -> None:
        """Undo one `lock` or `hold`."""
        self._clock += 1
        for step in list(node.path()):
            assert step.locks > 0, "unlocked more often than locked"
            step.locks -= 1
            step.used = self._clock
            if not step.locks:
                self.locked -= len(step.pages)
                self._offer(step)

    # -- growing -------------------------------------------------------------------------------------------------

    def extend(self, node: Node, key: bytes, pages: list[int]) -> Node | None:
        """Hang whole pages below a node that the caller has locked; that lock moves to the new end, which is returned.

        None, and nothing is done, where the tree has the first of these pages from somebody else: the caller keeps its
        own unshared, so that nobody ever locks pages that he does not read.
        """
        if key[: self.page_bytes] in node.children:
            return None
        new = self._add(node, key, pages)
        new.locks = 1
        self.locked += len(pages)
        return new

    def insert(self, key: bytes, pages: list[int], salt: str = "") -> Taken:
        """Take over what is new of `pages`, which hold the tokens of `key`, the last page perhaps partly."""
        node, inside, at = self._walk(self._root(salt.encode()), key, [])
        first, rest = at // self.page_bytes, key[at:]
        if not rest or self._is_dominated(node, inside, rest):
            return Taken(first, first, node)
        if inside:
            node = self._split(node, inside)
        return Taken(first, len(pages), self._add(node, rest, pages[first:]))

    def _is_dominated(self, node: Node, inside: int, rest: bytes) -> bool:
        """True where `rest` is the beginning of a page that is here already."""
        if len(rest) >= self.page_bytes:
            return False
        if inside:
            return node.key.startswith(rest, inside * self.page_bytes)
        at = bisect_left(node.order, rest)
        return at < len(node.order) and node.order[at].startswith(rest)

    def _add(self, node: Node, key: bytes, pages: list[int]) -> Node:
        self._clock += 1
        self.version += 1
        new = Node(node, key, pages, self._clock)
        first = key[: self.page_bytes]
        node.children[first] = new
        insort(node.order, first)
        self.pages += len(pages)
        self._release_dominated(node, first)
        self._offer(new)
        return new

    def _release_dominated(self, node: Node, first: bytes) -> None:
        """A free tail with which the page `first` begins stands just before it in sorted order."""
        at = bisect_left(node.order, first)
        if at == 0 or not first.startswith(node.order[at - 1]):
            return
        tail = node.children[node.order[at - 1]]
        if tail.evictable:
            self._trim(tail, 1)

    def _split(self, node: Node, pages: int) -> Node:
        """Cut the first `pages` pages off the edge of `node` into a new parent, which is returned.

        `node` keeps its identity as the lower part, so every lock on it still covers both.
        """
        assert node.parent is not None
        self._clock += 1
        cut = pages * self.page_bytes
        upper = Node(node.parent, node.key[:cut], node.pages[:pages], self._clock)
        upper.locks = node.locks
        node.parent.children[node.key[: self.page_bytes]] = upper
        node.key, node.pages, node.parent = node.key[cut:], node.pages[pages:], upper
        upper.children[node.key[: self.page_bytes]] = node
        upper.order.append(node.key[: self.page_bytes])
        return upper

    def _root(self, salt: bytes) -> Node:
        if salt not in self._roots:
            self._roots[salt] = Node(None, salt, [], 0)
        return self._roots[salt]

    # -- shrinking -----------------------------------------------------------------------------------------------

    def evict(self, pages: int) -> int:
        """Give up to `pages` unlocked pages back to the pool, the least recently used leaves first."""
        freed = 0
        while freed < pages and self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            node.queued = False
            if not node.evictable:
                continue
            if node.used != used:
                self._offer(node)  # used since it was queued: back in, further behind
                continue
            freed += self._trim(node, pages - freed)
        return freed

    def _offer(self, node: Node) -> None:
        """Queue a node for eviction if it can be evicted; an empty root of a salt just goes."""
        if node.parent is None:
            if not node.locks and not node.children:
                self._roots.pop(node.key, None)
        elif node.evictable and not node.queued:
            node.queued = True
            heapq.heappush(self._leaves, (node.used, next(self._tick), node))

    def _trim(self, leaf: Node, pages: int) -> int:
        """Free up to `pages` pages from the end of a leaf; without any left, it goes, and its parent may be next."""
        self.version += 1
        freed = leaf.pages[-pages:]
        first = leaf.key[: self.page_bytes]
        del leaf.pages[-pages:]
        leaf.key = leaf.key[: len(leaf.pages) * self.page_bytes]
        self.pages -= len(freed)
        self.pool.give(freed)
        if leaf.pages:
            self._offer(leaf)
            return len(freed)
        parent, leaf.parent = leaf.parent, None
        assert parent is not None
        del parent.children[first]
        del parent.order[bisect_left(parent.order, first)]
        self._offer(parent)
        return len(freed)

    # -- proving -------------------------------------------------------------------------------------------------

    def check(self, held: Counter[Node]) -> tuple[list[int], list[str]]:
        """All pages held, and what is wrong; `held` counts who holds which node."""
        locks: Counter[Node] = Counter()
        for node, times in held.items():
            for step in node.path():
                locks[step] += times
        pages: list[int] = []
        wrong: list[str] = []
        queued = {id(node) for _, _, node in self._leaves if node.queued}
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            stack += node.children.values()
            pages += node.pages
            wrong += self._check_node(node, locks.pop(node, 0), queued)
        if self.pages != len(pages):
            wrong.append(f"the tree counts {self.pages} pages and has {len(pages)}")
        wrong += [f"a node that is held is not in the tree ({times} times)" for times in locks.values()]
        return pages, wrong

    def _check_node(self, node: Node, locks: int, queued: set[int]) -> Iterator[str]:
        if node.locks != locks:
            yield f"a node counts {node.locks} locks where {locks} hold it"
        if sorted(node.children) != node.order:
            yield "children and their order differ"
        if node.parent is None:
            return
        if len(node.pages) != -(-len(node.key) // self.page_bytes) or not node.pages:
            yield f"{len(node.pages)} pages for {len(node.key) // TOKEN_BYTES} tokens"
        if node.children and len(node.key) % self.page_bytes:
            yield "a partly filled page above other nodes"
        if node.evictable and id(node) not in queued:
            yield "a leaf that could be evicted is not queued"
