"""Gates: what may hold back a waiting request, each a file of its own and none in the scheduler.

There is one waiting queue. When a request's turn comes, every gate is asked; all must say `GO`. A request that has to
wait is asked again in the next step, and the ones behind it are tried meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ramify.cache.ledger import Ledger
from ramify.cache.prefix import TOKEN_BYTES
from ramify.cache.tree import common_bytes
from ramify.core.errors import UserError
from ramify.schedule.policy import Prefixes
from ramify.schedule.request import Request


@dataclass(frozen=True, slots=True)
class Go:
    """Nothing against it."""


@dataclass(frozen=True, slots=True)
class Wait:
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    error: UserError


Verdict = Go | Wait | Refuse
GO = Go()


class Gate(Protocol):
    """`running` are the requests that run, in order of precedence, those admitted in this very step included."""

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict: ...


class FollowTheLeader:
    """A request waits for another that is computing a prefix of its prompt, and then finds it in the cache.

    Only where waiting saves at least a page and `worth` tokens, and never behind a lower priority. Nothing is
    remembered: when the leader is aborted, preempted or fails, the next step sees no leader and nobody waits.
    """

    def __init__(self, prefixes: Prefixes, ledger: Ledger, worth: int = 32) -> None:
        self._prefixes = prefixes
        self._ledger = ledger
        self._worth = max(worth, ledger.page_size)

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict:
        begin = request.prompt_key[: self._worth * TOKEN_BYTES]
        for leader in running:
            if leader.is_catching_up and leader.prompt_key.startswith(begin) and self._is_worth(request, leader):
                return Wait(f"its prefix is being computed by {leader.id}")
        return GO

    def _is_worth(self, request: Request, leader: Request) -> bool:
        if leader.salt != request.salt or leader.priority < request.priority:
            return False
        saved = self._will_share(request, leader) - self._prefixes.match(request).tokens
        return saved >= self._worth

    def _will_share(self, request: Request, leader: Request) -> int:
        """Tokens that `request` will find once `leader` has published its prompt."""
        common = common_bytes(request.prompt_key, leader.prompt_key) // TOKEN_BYTES
        return self._ledger.will_share(min(common, request.match_limit), leader.catch_up)
