"""From rows of a plan to tensors. Nothing here depends on what kind of step it is: tokens catch up."""

from __future__ import annotations

import torch

from ramify.layers.batch import Batch, Place, Vectors
from ramify.memory.kv import KVCache
from ramify.ops.attention import AttentionBackend, Paged
from ramify.wire.plan import Row
from ramify.worker.slots import Slots


def make_batch(rows: list[Row], slots: Slots, pool: KVCache, attention: AttentionBackend) -> Batch:
    """The batch of a step, at the exact lengths the slots have now."""
    slots_N = torch.tensor([row.slot for row in rows])
    counts_N = torch.tensor([row.count for row in rows])
    lengths_N = slots.lengths[slots_N]
    ends_N = counts_N.cumsum(0)
    row_T = torch.repeat_interleave(counts_N)  # which row each token belongs to
    positions_T = torch.arange(len(row_T)) - (ends_N - counts_N - lengths_N)[row_T]
    slot_T = slots_N[row_T]
    counts, lengths = counts_N.tolist(), (lengths_N + counts_N).tolist()
    starts = (ends_N - counts_N).tolist()
    size, places = slots.page_size, []
    for table in slots.tables:
        pages_T = table[slot_T, positions_T // size].long()
        paged = Paged(starts, counts, lengths, table[slots_N, : -(-max(lengths) // size)])
        places.append(Place(pages_T * size + positions_T % size, attention.prepare(paged)))
    return Batch(
        tokens_T=slots.tokens[slot_T, positions_T],
        positions_T=positions_T,
        starts=starts,
        counts=counts,
        lengths=lengths,
        places=tuple(places),
        pool=pool,
        vectors=_vectors(rows, slots, starts, lengths) if slots.vectors else None,
    )


def _vectors(rows: list[Row], slots: Slots, starts: list[int], lengths: list[int]) -> Vectors | None:
    """What of the step's prompts is vectors; generated tokens are always tokens."""
    places, parts = [], []
    for row, start, end in zip(rows, starts, lengths, strict=True):
        given = slots.vectors.get(row.slot)
        first = end - row.count
        if given is not None and first < len(given):
            part = given[first:end]
            places.append(torch.arange(start, start + len(part)))
            parts.append(part)
    return Vectors(torch.cat(places), torch.cat(parts)) if parts else None
