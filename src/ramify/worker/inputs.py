"""From rows of a plan to tensors. Nothing here depends on what kind of step it is: tokens catch up.

Whatever hangs on lengths is worked out on the device, which alone knows them; the host has upper bounds, by which it
plans how much there is at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.layers.batch import Batch, Place, Vectors
from ramify.memory.kv import KVCache
from ramify.ops.attention import AttentionBackend, Paged
from ramify.ops.lora import Runs
from ramify.ops.staging import Staging
from ramify.ops.states import Spans
from ramify.wire.plan import Row
from ramify.worker.slots import Held, Slots


@dataclass(frozen=True)
class Inputs:
    """What a step reads. The request in slot `slots_N[i]` is `ends_N[i]` long once row i is computed."""

    batch: Batch
    slots_N: Tensor
    ends_N: Tensor


def make_inputs(
    plan_rows: Sequence[Row], slots: Slots, pool: KVCache, attention: AttentionBackend, spare: int = 0
) -> Inputs:
    """Of a step, at the lengths the slots have now; with so many `spare` rows behind its own, of a token each."""
    rows = [*plan_rows, *[Row(slots.spare, 0, 1, False)] * spare]
    counts, of_rows = [row.count for row in rows], [row.slot for row in rows]
    stops = np.cumsum(counts)
    starts, row = stops - counts, np.repeat(np.arange(len(rows)), counts)
    slots_N, counts_N, row_T, within_T = slots.staging.send(
        np.array(of_rows), np.array(counts), row, np.arange(len(row)) - starts[row]
    )
    lengths_N = slots.lengths[slots_N]
    slot_T, positions_T, ends_N = slots_N[row_T], lengths_N[row_T] + within_T, lengths_N + counts_N
    bounds = slots.bounds(of_rows)
    begins, lengths = starts.tolist(), [bound + count for bound, count in zip(bounds, counts, strict=True)]
    size, places = slots.page_size, []
    for table, kept in zip(slots.tables, pool.pools, strict=False):
        pages_T = table[slot_T, positions_T // size].long()
        if pool.states is not None:
            pages_T.masked_fill_(positions_T < slots.read_until[slot_T], kept.nowhere)  # these are right as they are
        paged = Paged(begins, counts, lengths, table[slots_N, : -(-max(lengths) // size)], ends_N)
        places.append(Place(pages_T * size + positions_T % size, attention.prepare(paged)))
    held = [slots.held[slot] for slot in of_rows]
    batch = Batch(
        tokens_T=slots.tokens[slot_T, positions_T],
        positions_T=positions_T,
        starts=begins,
        counts=counts,
        lengths=lengths,
        places=tuple(places),
        pool=pool,
        vectors=_vectors(held, counts, begins, bounds, slots.staging) if slots.reading else None,
        spans=_spans(held, counts, begins, bounds, size, slots.staging) if pool.states is not None else None,
        runs=_runs([each.adapter for each in held], begins, counts, slots.staging) if slots.adapted else None,
    )
    return Inputs(batch, slots_N[: len(plan_rows)], ends_N[: len(plan_rows)])


def each_alone(adapters: Sequence[int], staging: Staging) -> Runs | None:
    """Runs of rows that are a token each, of the slot of its adapter."""
    return _runs(adapters, range(len(adapters)), [1] * len(adapters), staging)


def _runs(adapters: Sequence[int], starts: Sequence[int], counts: Sequence[int], staging: Staging) -> Runs | None:
    """Each row as a run of its adapter; none where no row has any."""
    if max(adapters) < 0:
        return None
    runs = [
        (start, start + count * (adapter >= 0), max(adapter, 0))
        for adapter, start, count in zip(adapters, starts, counts, strict=True)
    ]
    (rows_N3,) = staging.send(np.array(runs, dtype=np.int32))
    return Runs(rows_N3, tuple(runs))


def _spans(
    held: Sequence[Held],
    counts: Sequence[int],
    starts: Sequence[int],
    lengths: Sequence[int],
    size: int,
    staging: Staging,
) -> Spans:
    """Where states are read and left: the last page table names the slot of each page, and a state stays where the next
    page has another slot, and at the end. Rows with drafts keep no states, so that bounds of lengths are exact here.
    """
    began: list[int] = []
    ends: list[int] = []
    to: list[int] = []
    offsets = [0]
    for each, count, start, length in zip(held, counts, starts, lengths, strict=True):
        slots = each.pages[-1]
        began.append(slots[(length - 1) // size] if length else 0)
        until = length + count
        for number in range(length // size, (until - 1) // size + 1):
            end = min((number + 1) * size, until)
            if end == until or slots[number + 1] != slots[number]:
                ends.append(start + end - length)
                to.append(slots[number])
        offsets.append(len(ends))
    columns: list[NDArray[np.int64]] = [np.array(each) for each in (starts, began, offsets, ends, to)]
    return Spans(*staging.send(*columns))


def _vectors(
    held: Sequence[Held], counts: Sequence[int], starts: Sequence[int], lengths: Sequence[int], staging: Staging
) -> Vectors | None:
    """What of the step's prompts is vectors; generated tokens are always tokens."""
    places, parts = [], []
    for each, count, start, first in zip(held, counts, starts, lengths, strict=True):
        if each.vectors is not None and first < len(each.vectors):
            part = each.vectors[first : first + count]
            places.append(np.arange(start, start + len(part)))
            parts.append(part)
    if not parts:
        return None
    (at_E,) = staging.send(np.concatenate(places))
    return Vectors(at_E, torch.cat(parts))
