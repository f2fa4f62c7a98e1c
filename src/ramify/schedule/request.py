"""A request as the scheduler sees it: the only host copy of its tokens and of how far it has come.

    positions:    0 ........ computed ........ planned ........ len(tokens)
                  | KV committed | steps in flight | known, to be planned |

`computed` is exact. `planned` is an UPPER bound: drafts in flight may yet be rejected, and `commit` corrects it. Where
a sampled token is still in flight, `planned` reaches past the known tokens; the device knows what they are.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from ramify.cache.prefix import Match
from ramify.cache.tree import pack
from ramify.core.finish import Finish
from ramify.schedule.adapter import BARE, Adapter
from ramify.schedule.guide import FREE, Guide
from ramify.schedule.mode import ONE_MODE, Modes
from ramify.wire.messages import Reply, Submit, Times
from ramify.wire.result import HiddenStates, TokenLogprobs, join

if TYPE_CHECKING:
    from ramify.cache.ledger import Lease


class Status(IntEnum):
    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Request:
    """One generation. Only the `Scheduler` writes to it; `order` is its place in order of arrival."""

    __slots__ = (
        "adapter",
        "cached",
        "catch_up",
        "choice",
        "computed",
        "epoch",
        "expected",
        "finish",
        "finished_at",
        "first_token_at",
        "flying",
        "guide",
        "hidden",
        "hidden_from",
        "id",
        "invariant",
        "jumped",
        "last_step",
        "lease",
        "lot",
        "match",
        "match_version",
        "max_new",
        "order",
        "origin",
        "output_logprobs",
        "params",
        "planned",
        "pooled",
        "pooling",
        "preempted",
        "priority",
        "prompt_key",
        "prompt_len",
        "prompt_logprobs",
        "salt",
        "scored",
        "seed",
        "settled",
        "slot",
        "started_at",
        "status",
        "stop_ids",
        "stride",
        "submitted_at",
        "tokens",
        "told",
        "unsent",
        "unsent_hidden",
        "vectors",
        "wants",
        "yielding",
    )

    def __init__(
        self,
        submit: Submit,
        *,
        order: int,
        max_new: int,
        stop_ids: frozenset[int],
        lot: float,
        guide: Guide = FREE,
        adapter: Adapter = BARE,
        modes: Modes = ONE_MODE,
    ) -> None:
        self.id = submit.rid
        self.origin = submit.origin
        self.params = submit.params
        self.priority = submit.priority
        self.adapter = adapter
        self.invariant = modes.asked(submit)
        self.salt = modes.salted(adapter.salted(submit.salt), self.invariant)
        self.seed = submit.seed
        self.choice = submit.choice
        self.stride = submit.stride
        self.wants = submit.logprobs
        self.hidden = submit.hidden
        self.vectors = submit.vectors
        self.pooling = submit.pooling
        self.order = order
        self.lot = lot  # drawn once, for the policy `random`
        self.max_new = max_new
        self.stop_ids = stop_ids
        self.guide = guide
        self.tokens = list(submit.tokens)
        self.prompt_len = len(submit.tokens)
        self.prompt_key = pack(submit.tokens)

        self.status = Status.WAITING
        self.finish: Finish | None = None
        self.epoch = 0
        self.slot = -1
        self.lease: Lease | None = None
        self.computed = 0
        self.planned = 0
        self.catch_up = 0  # tokens known when it was opened: below this it is prefill, and published as it comes
        self.flying = 0  # rows in flight
        self.yielding = 0  # of these, rows that sample: a LOWER bound of the tokens on their way
        self.last_step = 0
        self.told = 0  # tokens that its slot knows, or will when the steps in flight are done
        self.jumped = 0  # tokens that were never sampled, because nothing else was allowed
        self.expected = 0  # tokens on their way that are known already, because nothing else was allowed
        self.settled = not submit.params.has_text_stops  # its text cannot take back any of its output
        self.match: Match | None = None
        self.match_version = -1

        self.cached = -1  # prompt tokens found in the cache when first admitted
        self.preempted = 0
        self.submitted_at = submit.arrived
        self.started_at = 0.0
        self.first_token_at = 0.0
        self.finished_at = 0.0

        # The next prompt token to score. The first of a prompt has no log probability.
        asked = submit.logprobs is not None and submit.logprobs.start >= 0
        self.scored = max(submit.logprobs.start, 1) if asked and submit.logprobs else self.prompt_len
        self.hidden_from = submit.hidden.start if submit.hidden is not None else -1  # the next position to tell of
        self.unsent: list[int] = []
        self.unsent_hidden: list[HiddenStates] = []
        self.prompt_logprobs: TokenLogprobs | None = None
        self.output_logprobs: TokenLogprobs | None = None
        self.pooled: bytes | None = None

    @property
    def held(self) -> Lease:
        """Its lease, which it has while it runs."""
        assert self.lease is not None
        return self.lease

    @property
    def outputs(self) -> int:
        """Tokens generated and committed."""
        return len(self.tokens) - self.prompt_len

    @property
    def remaining(self) -> int:
        """Tokens it may still generate."""
        return self.max_new - self.outputs

    @property
    def is_catching_up(self) -> bool:
        """True while tokens known at its opening are not all committed."""
        return self.computed < self.catch_up

    @property
    def shareable(self) -> int:
        """How many of its first tokens others may find: those computed, without output that its text may yet undo."""
        return self.computed if self.settled else min(self.computed, self.prompt_len)

    @property
    def match_limit(self) -> int:
        """How many of its tokens may come from the cache: the last is always computed, and so is what is still to be
        scored or to be told of. Where every state is pooled, none may.
        """
        limit = len(self.tokens) - 1
        if self.pooling is not None and self.pooling.whole:
            return 0
        if self.hidden_from >= 0:
            limit = min(limit, self.hidden_from)
        return min(limit, self.scored - 1) if self.scored < self.prompt_len else limit

    def key(self, tokens: int | None = None) -> bytes:
        """Its tokens as a key of the prefix cache, or the first `tokens` of them."""
        end = len(self.tokens) if tokens is None else tokens
        if end <= self.prompt_len:
            return self.prompt_key[: end * 4]
        return self.prompt_key + pack(self.tokens[self.prompt_len : end])

    def add_prompt_logprobs(self, found: TokenLogprobs) -> None:
        """Keep what is new of a scored run of prompt tokens; a preempted request may score some twice."""
        skip = self.scored - found.start
        if skip >= len(found.values):
            return
        if self.prompt_logprobs is None:
            self.prompt_logprobs = TokenLogprobs(self.scored, [])
        _append(self.prompt_logprobs, found, skip)
        self.scored = found.start + len(found.values)

    def add_output_logprobs(self, found: TokenLogprobs, tokens: int) -> None:
        """Keep the first `tokens` of what belongs to tokens just sampled."""
        if self.output_logprobs is None:
            self.output_logprobs = TokenLogprobs(found.start, [])
        _append(self.output_logprobs, found, 0, tokens)

    def add_hidden(self, found: HiddenStates) -> None:
        """Keep what is new of the states of committed positions; a preempted request may compute some twice."""
        count = self.computed - found.start
        skip = max(self.hidden_from - found.start, 0)
        if skip >= count:
            return
        size = len(found.data) // found.count
        self.hidden_from = self.computed
        if self.hidden is not None and self.hidden.last and not self.params.has_text_stops:
            self.unsent_hidden.clear()  # text stops may yet take tokens back
            skip = count - 1
        self.unsent_hidden.append(
            HiddenStates(found.start + skip, count - skip, found.data[skip * size : count * size])
        )

    def take_reply(self) -> Reply:
        """All news since the last reply."""
        reply = Reply(
            self.id,
            self.origin,
            self.unsent,
            self.finish,
            max(self.cached, 0),
            self.preempted,
            self.prompt_logprobs,
            self.output_logprobs,
            self._take_hidden() if self.unsent_hidden else None,
            None if self.finish is None else Times(self.started_at, self.first_token_at),
            self.pooled,
        )
        self.unsent, self.prompt_logprobs, self.output_logprobs = [], None, None
        return reply

    def _take_hidden(self) -> HiddenStates:
        states, self.unsent_hidden = join(self.unsent_hidden), []
        return states


def _append(to: TokenLogprobs, found: TokenLogprobs, first: int, count: int | None = None) -> None:
    last = None if count is None else first + count
    to.values += found.values[first:last]
    to.top_values += found.top_values[first:last]
    to.top_ids += found.top_ids[first:last]
    to.id_values += found.id_values[first:last]
