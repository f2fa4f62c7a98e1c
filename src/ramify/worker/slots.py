"""The worker's side of each request: its tokens, its exact length, its page table.

Written only by the thread that runs the steps, in the order of the plans. `length` is the truth of which the host
knows an upper bound; `tokens` beyond what the host has sent are those sampled here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramify.cache.ledger import AHEAD
from ramify.sampling.state import SamplingState
from ramify.wire.plan import Grant, LogprobsWanted, Opened


@dataclass
class Held:
    """What is known of a slot besides tensors. `pages` counts entries of its page tables, by group."""

    epoch: int
    prompt_len: int
    wants: LogprobsWanted | None
    pages: list[int]
    broken_from: int | None = None  # first position that may hold NaN
    hidden_from: int = -1  # first position whose hidden state is to be told


class Slots:
    """`count` requests of up to `context` tokens, with a page table per group of layers."""

    def __init__(
        self,
        count: int,
        context: int,
        page_size: int,
        eos_ids: tuple[int, ...],
        device: torch.device,
        groups: int = 1,
    ) -> None:
        self.page_size = page_size
        self.tokens = torch.zeros((count, context), dtype=torch.int64, device=device)
        width = -(-context // page_size) + AHEAD // page_size  # a lease may have pages it will never need
        self.tables = tuple(torch.zeros((count, width), dtype=torch.int32, device=device) for _ in range(groups))
        self.lengths = torch.zeros((count,), dtype=torch.int64, device=device)
        self.read_until = torch.zeros((count,), dtype=torch.int64, device=device)  # full pages below are others'
        self.sampling = SamplingState(count, device, eos_ids)
        self.held: dict[int, Held] = {}
        self.telling: set[int] = set()  # slots whose hidden states are asked for
        self.adapters = torch.full((count,), -1, dtype=torch.int64, device=device)
        self.adapted: set[int] = set()  # slots whose requests have an adapter
        self.vectors: dict[int, Tensor] = {}  # [prompt, hidden] of slots that read these and no tokens

    def open(self, new: Opened) -> None:
        pages = [0] * len(self.tables)
        self.held[new.slot] = Held(new.epoch, new.prompt_len, new.logprobs, pages, hidden_from=new.hidden_from)
        if new.hidden_from >= 0:
            self.telling.add(new.slot)
        self.adapters[new.slot] = new.adapter
        if new.adapter >= 0:
            self.adapted.add(new.slot)
        if new.vectors:
            matrix = np.frombuffer(new.vectors, "<f4").reshape(new.prompt_len, -1).astype(np.float32)
            self.vectors[new.slot] = torch.from_numpy(matrix).to(self.tokens.device)
        self.tokens[new.slot, : len(new.tokens)] = torch.tensor(new.tokens, dtype=torch.int64)
        self.lengths[new.slot] = new.start
        self.read_until[new.slot] = new.read_until
        self.sampling.open(new.slot, new.params, new.seed, new.choice, new.prompt_len)

    def close(self, slot: int) -> None:
        self.held.pop(slot, None)
        self.telling.discard(slot)
        self.vectors.pop(slot, None)
        self.adapted.discard(slot)

    def grant(self, grant: Grant) -> None:
        held, pages = self.held[grant.slot].pages, torch.tensor(grant.pages, dtype=torch.int32)
        first = held[grant.group]
        self.tables[grant.group][grant.slot, first : first + len(pages)] = pages
        held[grant.group] += len(pages)

    def pages_from(self, slot: int, position: int, group: int) -> list[int]:
        """Pages of a slot from the one that holds `position`."""
        return self.tables[group][slot, position // self.page_size : self.held[slot].pages[group]].tolist()

    def outputs(self, slot: int, end: int) -> Tensor:
        """Generated tokens of a slot, up to position `end`."""
        return self.tokens[slot, self.held[slot].prompt_len : end]
