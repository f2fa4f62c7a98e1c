"""The worker's side of each request: its tokens, its length, its page tables.

Written only by the thread that runs the steps, in the order of the plans. The tensors are the device's and hold the
truth: `lengths`, and `tokens` beyond what the host has sent, which are those sampled there. `held` is what the host
knows, of lengths an upper bound: what the device makes of drafts it learns later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.cache.ledger import AHEAD
from ramify.ops.staging import Staging
from ramify.sampling.state import SamplingState
from ramify.wire.plan import Grant, LogprobsWanted, Opened, Row


@dataclass
class Held:
    """What the host knows of a slot. `pages` are its page tables, by group."""

    epoch: int
    prompt_len: int
    bound: int  # of the length
    wants: LogprobsWanted | None
    pages: list[list[int]]
    adapter: int = -1
    broken_from: int | None = None  # first position that may hold NaN
    hidden_from: int = -1  # first position whose hidden state is to be told
    vectors: Tensor | None = field(default=None, repr=False)  # [prompt, hidden], read instead of tokens


class Slots:
    """`count` requests of up to `context` tokens, with a page table per group of layers. One slot more, `spare`, is
    nobody's: its tokens are computed where a step needs more rows than it has, and land on pages that nobody reads,
    `nowhere` of each group.
    """

    def __init__(
        self,
        count: int,
        context: int,
        page_size: int,
        eos_ids: tuple[int, ...],
        device: torch.device,
        staging: Staging,
        nowhere: Sequence[int] = (0,),
    ) -> None:
        self.page_size, self.spare, self.staging = page_size, count, staging
        self.tokens = torch.zeros((count + 1, context), dtype=torch.int64, device=device)
        width = -(-context // page_size) + AHEAD // page_size  # a lease may have pages it will never need
        self.tables = tuple(torch.zeros((count + 1, width), dtype=torch.int32, device=device) for _ in nowhere)
        self.lengths = torch.zeros((count + 1,), dtype=torch.int64, device=device)
        self.read_until = torch.zeros((count + 1,), dtype=torch.int64, device=device)  # full pages below are others'
        self.sampling = SamplingState(count + 1, device, eos_ids)
        self.held: dict[int, Held] = {}
        self.telling: set[int] = set()  # slots whose hidden states are asked for
        self.adapted: set[int] = set()  # slots whose requests have an adapter
        self.reading: set[int] = set()  # slots that read vectors
        self.held[self.spare] = Held(0, 0, 0, None, [[page] for page in nowhere])
        for table, page in zip(self.tables, nowhere, strict=True):
            table[self.spare] = page

    def open(self, opened: Sequence[Opened]) -> None:
        for new in opened:
            self._hold(new)
        columns = np.array([(new.slot, new.start, new.read_until) for new in opened]).T
        slots_N, start_N, read_until_N = self.staging.send(*columns)
        self.lengths[slots_N], self.read_until[slots_N] = start_N, read_until_N
        texts = self.staging.send(*(np.array(new.tokens, dtype=np.int64) for new in opened))
        for new, tokens in zip(opened, texts, strict=True):
            self.tokens[new.slot, : len(tokens)] = tokens
        self.sampling.open(opened, self.staging)

    def _hold(self, new: Opened) -> None:
        pages: list[list[int]] = [[] for _ in self.tables]
        held = Held(new.epoch, new.prompt_len, new.start, new.logprobs, pages, new.adapter, None, new.hidden_from)
        self.held[new.slot] = held
        if new.hidden_from >= 0:
            self.telling.add(new.slot)
        if new.adapter >= 0:
            self.adapted.add(new.slot)
        if new.vectors:
            matrix = np.frombuffer(new.vectors, "<f4").reshape(new.prompt_len, -1).astype(np.float32)
            (held.vectors,) = self.staging.send(matrix)
            self.reading.add(new.slot)

    def close(self, slot: int) -> None:
        self.held.pop(slot, None)
        for some in (self.telling, self.adapted, self.reading):
            some.discard(slot)

    def grant(self, grants: Sequence[Grant]) -> None:
        for group, table in enumerate(self.tables):
            granted = [self._granted(grant) for grant in grants if grant.group == group]
            if granted:
                slots_G, places_G, pages_G = self.staging.send(*np.concatenate(granted, axis=1))
                table[slots_G, places_G] = pages_G.to(torch.int32)

    def _granted(self, grant: Grant) -> NDArray[np.int64]:
        """Slot, place in its table, page."""
        pages = self.held[grant.slot].pages[grant.group]
        first, count = len(pages), len(grant.pages)
        pages.extend(grant.pages)
        return np.stack((np.full(count, grant.slot), np.arange(first, first + count), np.array(grant.pages)))

    def write(self, rows: Sequence[Row]) -> None:
        """What the host gives stands behind the last token of a slot; guesses follow until they are verified."""
        known = [
            (row.slot, row.count - len(tokens) + at, token)
            for row in rows
            for tokens in [(*row.given, *row.drafts)]
            for at, token in enumerate(tokens)
        ]
        if known:
            slots_K, ahead_K, tokens_K = self.staging.send(*np.array(known).T)
            self.tokens[slots_K, self.lengths[slots_K] + ahead_K] = tokens_K

    def bounds(self, slots: Sequence[int]) -> list[int]:
        """Of lengths. Exact where the host can look, and where no drafts are under way."""
        if self.staging.is_host:
            found: list[int] = self.lengths[list(slots)].tolist()
            return found
        return [self.held[slot].bound for slot in slots]
