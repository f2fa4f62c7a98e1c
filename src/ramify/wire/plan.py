"""The plan: what the scheduler tells the workers, once per step. Plain integers, no tensors.

Tokens catch up: there is no prefill phase and no decode phase. A `Row` computes `count` positions from where its
request stands on the device; a long prompt in chunks, what is left after a cache hit, one decode step and a run of
guesses to verify are all the same arithmetic.
"""

from __future__ import annotations

import msgspec

from ramify.core.params import SamplingParams


class LogprobsWanted(msgspec.Struct, frozen=True, array_like=True):
    """Which log probabilities a request asks for.

    `start` is the first prompt token to score (-1: none of the prompt), `top` how many best tokens to list beside each
    scored one, `ids` token ids whose log probability is wanted at each scored position.
    """

    start: int = -1
    top: int = 0
    ids: tuple[int, ...] = ()


class HiddenWanted(msgspec.Struct, frozen=True, array_like=True):
    """Of which positions a request wants the hidden states: from `start` on, or with `last` of the newest alone."""

    start: int
    last: bool = False


class Pooling(msgspec.Struct, frozen=True, array_like=True):
    """A request of which no tokens are wanted, but what the model's head makes of it.

    The tokens from `second` on are the second of a pair of texts; -1: there is one text. The first `skip` tokens are
    read and not pooled. `whole`: no position may come from the cache, because the state of each is wanted.
    """

    second: int = -1
    skip: int = 0
    whole: bool = False


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """A request's first sight of a slot, or its return after a preemption.

    `tokens` are all its tokens so far, of which the first `prompt_len` are prompt; positions below `start` are in the
    pages already. Random numbers of the request are keyed by (`seed`, `choice`, position). Hidden states are told of
    positions from `hidden_from` on; -1: of none. `vectors` are read in place of the prompt's tokens, as in `Submit`.
    Where layers keep states, `start` may lie before `read_until`: full pages below that are others' and hold what they
    should, so nothing is written there. `adapter` is the slot in which its adapter stands; -1: it has none.
    `invariant`: every step that holds a row of it is, and its pages come from no other.
    """

    slot: int
    epoch: int
    tokens: list[int]
    prompt_len: int
    start: int
    params: SamplingParams
    seed: int
    choice: int = 0
    logprobs: LogprobsWanted | None = None
    hidden_from: int = -1
    vectors: bytes = b""
    pooling: Pooling | None = None
    read_until: int = 0
    adapter: int = -1
    invariant: bool = False


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Compute `count` positions of the request in `slot`.

    The first position is the device's own exact length; the tokens are the slot's own, of which the newest may have
    been sampled by the step before and be unknown to the host. Then come `given`, tokens that the host knows and the
    slot does not (a grammar left no choice), and `drafts`, guesses that are verified: `count` includes both. With
    `sample`, the row reaches the end of what is known and yields 1 to 1 + len(drafts) tokens. `logprobs_from` is the
    first prompt token to score in this row, -1 for none.
    """

    slot: int
    epoch: int
    count: int
    sample: bool
    drafts: tuple[int, ...] = ()
    logprobs_from: int = -1
    given: tuple[int, ...] = ()


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """Pages new to THIS slot, in order, to append to its page table; matched ones included. Nothing is sent twice."""

    slot: int
    group: int
    pages: list[int]


class PageCopy(msgspec.Struct, frozen=True, array_like=True):
    """Copy page `source` to page `target`, before any write of the same plan. `ticket` comes back when it is done."""

    group: int
    source: int
    target: int
    ticket: int


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """Adapter `id`, which is in memory, stands in `slot` from this plan on, in place of whichever stood there."""

    slot: int
    id: int


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """One step. Order of effects: `closed`, `moved`, `opened`, `grants`, `copies`, then `rows`, whose writes end it.

    `invariant`: all of it is computed with the kernels whose numbers do not depend on the batch, where the platform has
    two sets of them (see `schedule.mode`).
    """

    step: int
    rows: list[Row]
    opened: list[Opened]
    grants: list[Grant]
    copies: list[PageCopy]
    closed: list[int]
    moved: list[Moved] = []
    invariant: bool = False

    @property
    def tokens(self) -> int:
        """Positions this step computes."""
        return sum(row.count for row in self.rows)
