"""Books without pages, for models that keep nothing between steps."""

from __future__ import annotations

from ramify.cache.ledger import Ledger


class Unpaged(Ledger):
    """A request holds one page as long as the longest request, a number behind which no memory stands: it begins, ends,
    waits in limbo and is accounted for like any other. There are enough for `requests` that run and as many in limbo.
    """

    def __init__(self, requests: int, longest: int) -> None:
        super().__init__(2 * requests, longest, reuse=False)

    @property
    def used(self) -> int:
        """No memory."""
        return 0
