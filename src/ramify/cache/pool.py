"""Pages as numbers: which are free. What a page holds is the business of `memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class PagePool:
    """`total` pages numbered from 1. Page 0 is never given out: padding rows write there.

    The pool trusts its callers to free what they own, once; `Ledger.check` proves that they did. `freed`, if set, is
    told of every page that comes back (tests poison them).
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total, 0, -1))  # a stack: a page freed late is reused first, while it is warm
        self.freed: Callable[[Iterable[int]], None] | None = None

    def __len__(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """`count` pages, or None if there are fewer."""
        if count > len(self._free):
            return None
        if count == 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        taken.reverse()
        return taken

    def give(self, pages: Iterable[int]) -> None:
        """Pages come back. No step in flight may read or write them any more."""
        pages = list(pages)
        self._free.extend(pages)
        if self.freed is not None:
            self.freed(pages)

    def free_pages(self) -> list[int]:
        """For `check` and dumps."""
        return list(self._free)
