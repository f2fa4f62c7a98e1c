"""What the ledger asks of a prefix cache, and the cache that keeps nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

TOKEN_BYTES = 4  # keys are token ids packed as 32-bit integers


@dataclass(slots=True)
class Match:
    """What a cache holds of a key.

    `pages` are the whole pages that match, ending at `node`; the last `inside` of them are the first pages of that
    node's edge, which goes on differently (0: the match ends where the edge ends). `extra` more tokens stand at the
    start of page `source`, on the edge of `source_node`. `tokens` is the sum.
    """

    salt: str = ""
    node: Any = None
    pages: list[int] = field(default_factory=list)
    inside: int = 0
    extra: int = 0
    source: int = 0
    source_node: Any = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer to `insert`: of the pages offered, `pages[first:last]` now belong to the cache, under `node`."""

    first: int
    last: int
    node: Any


class PrefixCache(Protocol):
    """Pages by prefix. A node is an opaque handle; the safety rules stand on `RadixTree`, which is the real one."""

    version: int
    pages: int
    locked: int

    def match(self, key: bytes, salt: str = "") -> Match: ...
    def touch(self, match: Match) -> None: ...
    def lock(self, match: Match) -> Any: ...
    def hold(self, node: Any) -> None: ...
    def unlock(self, node: Any) -> None: ...
    def extend(self, node: Any, key: bytes, pages: list[int]) -> Any: ...
    def insert(self, key: bytes, pages: list[int], salt: str = "") -> Taken: ...
    def evict(self, pages: int) -> int: ...
    def check(self, held: Counter[Any]) -> tuple[list[int], list[str]]: ...


class NoPrefix:
    """`--disable-radix-cache`: nothing matches and nothing is kept."""

    version = pages = locked = 0

    def match(self, key: bytes, salt: str = "") -> Match:
        return Match(salt)

    def touch(self, match: Match) -> None: ...

    def lock(self, match: Match) -> None: ...

    def hold(self, node: None) -> None: ...

    def unlock(self, node: None) -> None: ...

    def extend(self, node: None, key: bytes, pages: list[int]) -> None:
        return None

    def insert(self, key: bytes, pages: list[int], salt: str = "") -> Taken:
        return Taken(0, 0, None)

    def evict(self, pages: int) -> int:
        return 0

    def check(self, held: Counter[Any]) -> tuple[list[int], list[str]]:
        return [], []
