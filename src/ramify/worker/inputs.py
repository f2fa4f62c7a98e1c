"""From rows of a plan to tensors. Nothing here depends on what kind of step it is: tokens catch up."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.layers.batch import Batch, Place, Vectors
from ramify.memory.kv import KVCache
from ramify.ops.attention import AttentionBackend, Paged
from ramify.ops.states import Spans
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
    for table, kept in zip(slots.tables, pool.pools, strict=False):
        pages_T = table[slot_T, positions_T // size].long()
        if pool.states is not None:
            pages_T.masked_fill_(positions_T < slots.read_until[slot_T], kept.nowhere)  # these are right as they are
        paged = Paged(starts, counts, lengths, table[slots_N, : -(-max(lengths) // size)], lengths_N + counts_N)
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
        spans=_spans(slots.tables[-1], size, slots_N, lengths_N, counts_N, ends_N) if pool.states is not None else None,
        runs_N3=_runs(slots.adapters[slots_N], ends_N - counts_N, counts_N) if slots.adapted else None,
    )


def each_alone(adapters_T: Tensor) -> Tensor | None:
    """Runs of rows that are a token each, of the slot of its adapter."""
    return _runs(adapters_T, torch.arange(len(adapters_T)), torch.ones_like(adapters_T))


def _runs(adapters_N: Tensor, starts_N: Tensor, counts_N: Tensor) -> Tensor | None:
    """Each row as a run of its adapter; none where no row has any."""
    has_N = adapters_N >= 0
    if not bool(has_N.any()):
        return None
    ends_N = starts_N + counts_N * has_N
    return torch.stack((starts_N, ends_N, adapters_N.clamp(min=0)), dim=1).to(torch.int32)


def _spans(table: Tensor, size: int, slots_N: Tensor, lengths_N: Tensor, counts_N: Tensor, ends_N: Tensor) -> Spans:
    """Where states are read and left: `table` names the slot of each page, and a state stays where the next page has
    another slot, and at the end.
    """
    starts_N, last_N = ends_N - counts_N, lengths_N + counts_N - 1
    from_N = table[slots_N, (lengths_N - 1).clamp(min=0) // size].long().masked_fill(lengths_N == 0, 0)
    if int(counts_N.max()) == 1:
        return Spans(starts_N, from_N, torch.arange(len(slots_N) + 1), ends_N, table[slots_N, last_N // size].long())
    ends: list[int] = []
    to: list[int] = []
    offsets = [0]
    rows = zip(slots_N.tolist(), lengths_N.tolist(), last_N.tolist(), starts_N.tolist(), strict=True)
    for slot, first, last, start in rows:
        pages = table[slot, first // size : last // size + 1].tolist()
        for number, page in enumerate(pages, first // size + 1):
            end = min(number * size, last + 1)
            if end == last + 1 or page != pages[number - first // size]:
                ends.append(start + end - first)
                to.append(page)
        offsets.append(len(ends))
    return Spans(starts_N, from_N, torch.tensor(offsets), torch.tensor(ends), torch.tensor(to))


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
