"""Paged attention of every row of a step in one launch, and a second small one where rows were split over keys.

The bits of a query depend on its own text alone. Keys are walked in tiles that begin at multiples of KEYS, gathered in
splits that begin at multiples of SPLIT, wherever a chunk of the prompt begins or a page ends:

    position   0        256       512       768
    splits     |---------|---------|---------|--
    tiles      |-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-
    a query              ^ window    q             sees what is between; a tile that it does not see changes no bit

Within a split the softmax is kept online (Milakov and Gimelshein 2018, as in FlashAttention, Dao et al. 2022). Splits
are merged from the first to the last by `merge`: by the program itself where it has them all, by `combine` where
several computed them (Flash-Decoding, Dao et al. 2023). Which of both it is changes no bit, so that it can be chosen
by how full the device is.

A program takes LINES lines of one key-value head. A line is a pair (query, head of the group), so that a row of one
query fills one tile for all heads that share its keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

import triton
from ramify.config.stored import ELEMENT_BYTES
from ramify.ops.attention import AttentionShape, Paged, Rule, value_size
from ramify.ops.staging import staging_of
from ramify.ops.triton.pages import launched, numbers
from ramify.ops.triton.rope import scales

SPLIT = 256  # keys; a partial result costs about three hundredths of the bytes that were read for it
PROGRAMS = 528  # that fill a device: four for each of 132 multiprocessors
PART_BYTES = 64 << 20  # of partial results: beyond that fewer rows are split
LARGEST = 640  # elements of a head
LOG2E = tl.constexpr(1.4426950408889634)
NEVER = 1 << 30  # a window or a chunk that is none

# Columns of a row and of an item, in int32.
START, COUNT, LENGTH, AT = (tl.constexpr(column) for column in range(4))
ROW, TILE, FIRST, MANY = (tl.constexpr(column) for column in range(4))


@triton.jit
def merge(peak, total, sums, other_peak, other_total, other_sums):
    """Two parts of a softmax, in their order. One in which nothing was seen (its peak is -inf) changes no bit."""
    highest = tl.maximum(peak, other_peak)
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    kept, taken = tl.exp2(peak - reference), tl.exp2(other_peak - reference)
    total = tl.fma(total, kept, other_total * taken)
    sums = tl.fma(sums, tl.expand_dims(kept, -1), other_sums * tl.expand_dims(taken, -1))
    return highest, total, sums


@triton.jit
def divide(peak, total, sums, sinks):
    """What was attended to; `sinks` are scores in base 2 that take their share of the softmax."""
    highest = tl.maximum(peak, sinks)
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    kept = tl.exp2(peak - reference)
    total = tl.fma(total, kept, tl.exp2(sinks - reference))
    return sums * tl.expand_dims(kept / total, -1)


@triton.jit
def first_key(position, window, chunk):
    """See `Rule.first_key`."""
    return tl.maximum(tl.maximum(position - window + 1, 0), position // chunk * chunk)


@triton.jit
def ones(x):
    """How many bits are set, of uint64."""
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def attend(
    q_ptr,
    k_ptr,
    v_ptr,
    k_scales_ptr,
    v_scales_ptr,
    sinks_ptr,
    out_ptr,
    sums_ptr,
    peaks_ptr,
    rows_ptr,
    items_ptr,
    tables_ptr,
    trees_ptr,
    scale,
    cap,
    window,
    chunk,
    k_page,
    k_head,
    k_slot,
    v_page,
    v_head,
    v_slot,
    pages,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    VALUE: tl.constexpr,
    VALUES: tl.constexpr,
    SHARED: tl.constexpr,
    PAGE: tl.constexpr,
    SCALED: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    TREES: tl.constexpr,
    LINES: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One item: a tile of lines and a run of splits. `SIZE` elements of a key are loaded as `MAIN`, and `REST` behind
    them; both are powers of 2. Where `SHARED`, the values are the `MAIN` elements.
    """
    item = items_ptr + 4 * tl.program_id(0)
    many = tl.load(item + MANY)
    if many == 0:
        return  # behind the last item of a captured step
    row, tile, first = tl.load(item + ROW), tl.load(item + TILE), tl.load(item + FIRST)
    start, count = tl.load(rows_ptr + 4 * row + START), tl.load(rows_ptr + 4 * row + COUNT)
    length, at = tl.load(rows_ptr + 4 * row + LENGTH), tl.load(rows_ptr + 4 * row + AT)
    kv_head = tl.program_id(1)

    line = tile * LINES + tl.arange(0, LINES)
    query = line // GROUP
    here = query < count
    before = length - count  # keys before the row's queries
    position = before + query
    lowest = before + tile * LINES // GROUP
    if TREES:  # the position of a draft is its depth, and its key stands where its number in the row is
        tree = tl.load(trees_ptr + start + query, mask=here, other=0).to(tl.uint64, bitcast=True)
        position = tl.where(tree == 0, position, before + ones(tree) - 1)
        lowest = tl.where(tl.load(trees_ptr + start) == 0, lowest, before)
    since = first_key(position, window, chunk)
    highest = tl.minimum(length - count + (tile * LINES + LINES - 1) // GROUP, length - 1)
    earliest = first_key(lowest, window, chunk)

    head = kv_head * GROUP + line % GROUP
    token = (start + query).to(tl.int64) * HEADS + head
    c = tl.arange(0, MAIN)
    q = tl.load(q_ptr + token[:, None] * SIZE + c[None, :], mask=here[:, None] & (c < SIZE)[None, :], other=0.0)
    if REST:
        r = MAIN + tl.arange(0, REST)
        q_rest = tl.load(
            q_ptr + token[:, None] * SIZE + r[None, :], mask=here[:, None] & (r < SIZE)[None, :], other=0.0
        )
    k_ptr += kv_head * k_head
    v_ptr += kv_head * v_head
    e = tl.arange(0, VALUES)

    whole_peak = tl.full([LINES], float("-inf"), tl.float32)
    whole_total = tl.zeros([LINES], tl.float32)
    whole_sums = tl.zeros([LINES, VALUES], tl.float32)
    peak = tl.full([LINES], float("-inf"), tl.float32)
    total = tl.zeros([LINES], tl.float32)
    sums = tl.zeros([LINES, VALUES], tl.float32)

    begin = tl.maximum(first * SPLIT, earliest // KEYS * KEYS)
    end = tl.minimum((first + many) * SPLIT, highest + 1)
    for tile_at in range(begin, end, KEYS):
        key = tile_at + tl.arange(0, KEYS)
        seen = (key >= earliest) & (key <= highest)  # by any line: what else stands there may be anybody's
        page = tl.load(tables_ptr + row.to(tl.int64) * pages + key // PAGE, mask=seen, other=0).to(tl.int64)
        k_at = page * k_page + (key % PAGE) * k_slot
        v_at = page * v_page + (key % PAGE) * v_slot
        k = tl.load(k_ptr + k_at[:, None] + c[None, :], mask=seen[:, None] & (c < SIZE)[None, :], other=0.0)
        k = numbers(k, q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if REST:
            k_rest = tl.load(k_ptr + k_at[:, None] + r[None, :], mask=seen[:, None] & (r < SIZE)[None, :], other=0.0)
            scores = tl.dot(q_rest, tl.trans(numbers(k_rest, q.dtype)), scores, input_precision="ieee")
        if SCALED:  # int8 with a float behind every row: see `ops.reference.int8`
            k_scale = tl.load(k_scales_ptr + (kv_head * k_head + k_at) // 4, mask=seen, other=0.0)
            scores = scores * k_scale[None, :]
        scores = scores * scale
        if CAPPED:
            scores = cap * (1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2E / cap)) + 1.0))
        scores = scores * LOG2E
        visible = (key[None, :] <= position[:, None]) & (key[None, :] >= since[:, None])
        if TREES:  # noqa: SIM102  this one is decided when the kernel is compiled
            if tile_at + KEYS > before:
                draft = key - before
                of_tree = tree[:, None] >> tl.minimum(tl.maximum(draft, 0), 63).to(tl.uint64)[None, :]
                ancestor = ((of_tree & 1) != 0) & (position[:, None] - ones(of_tree) + 1 >= since[:, None])
                visible = tl.where((tree == 0)[:, None] | (draft < 0)[None, :], visible, ancestor & seen[None, :])
        scores = tl.where(visible, scores, float("-inf"))

        new_peak = tl.maximum(peak, tl.max(scores, 1))
        reference = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - reference[:, None])
        kept = tl.exp2(peak - reference)
        total = tl.fma(total, kept, tl.sum(weights, 1))
        sums = sums * kept[:, None]
        if SCALED:
            v_scale = tl.load(v_scales_ptr + (kv_head * v_head + v_at) // 4, mask=seen, other=0.0)
            weights = weights * v_scale[None, :]
        if SHARED:
            v = k
        else:
            v = tl.load(v_ptr + v_at[:, None] + e[None, :], mask=seen[:, None] & (e < VALUE)[None, :], other=0.0)
        sums = tl.dot(weights.to(q.dtype), numbers(v, q.dtype), sums, input_precision="ieee")
        peak = new_peak

        if ((tile_at + KEYS) % SPLIT == 0) | (tile_at + KEYS >= end):
            if at < 0:
                whole_peak, whole_total, whole_sums = merge(whole_peak, whole_total, whole_sums, peak, total, sums)
            else:
                part = at + (query * HEADS + head) * tl.cdiv(length, SPLIT) + tile_at // SPLIT
                tl.store(peaks_ptr + 2 * part, peak, mask=here)
                tl.store(peaks_ptr + 2 * part + 1, total, mask=here)
                tl.store(
                    sums_ptr + part.to(tl.int64)[:, None] * VALUE + e[None, :],
                    sums,
                    mask=here[:, None] & (e < VALUE)[None, :],
                )
            peak = tl.full([LINES], float("-inf"), tl.float32)
            total = tl.zeros([LINES], tl.float32)
            sums = tl.zeros([LINES, VALUES], tl.float32)

    if at < 0:
        sinks = tl.full([LINES], float("-inf"), tl.float32)
        if SINKS:
            sinks = tl.load(sinks_ptr + head) * LOG2E
        out = divide(whole_peak, whole_total, whole_sums, sinks)
        tl.store(
            out_ptr + token[:, None] * VALUE + e[None, :],
            out.to(out_ptr.dtype.element_ty),
            mask=here[:, None] & (e < VALUE)[None, :],
        )


@triton.jit
def combine(
    sums_ptr,
    peaks_ptr,
    sinks_ptr,
    out_ptr,
    rows_ptr,
    queries_ptr,
    window,
    chunk,
    HEADS: tl.constexpr,
    VALUE: tl.constexpr,
    VALUES: tl.constexpr,
    SINKS: tl.constexpr,
    TREES: tl.constexpr,
    SPLIT: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """One head of one query whose keys were split. `UNROLL` loads are under way at once; they are merged in order."""
    row, query = tl.load(queries_ptr + 2 * tl.program_id(0)), tl.load(queries_ptr + 2 * tl.program_id(0) + 1)
    if row < 0:
        return
    start, count = tl.load(rows_ptr + 4 * row + START), tl.load(rows_ptr + 4 * row + COUNT)
    length, at = tl.load(rows_ptr + 4 * row + LENGTH), tl.load(rows_ptr + 4 * row + AT)
    head = tl.program_id(1)
    position = length - count + query
    until = position // SPLIT + 1
    if TREES:  # what a draft does not see changes nothing, but for what nobody of its row sees
        position = length - count
    since = first_key(position, window, chunk) // SPLIT
    parts = at + (query * HEADS + head) * tl.cdiv(length, SPLIT)
    e = tl.arange(0, VALUES)
    peak = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    sums = tl.zeros([1, VALUES], tl.float32)
    one = tl.arange(0, 1)
    for split in range(since, until, UNROLL):
        for step in tl.static_range(UNROLL):
            number = split + step + one
            part, there = parts + number, number < until
            other_peak = tl.load(peaks_ptr + 2 * part, mask=there, other=float("-inf"))
            other_total = tl.load(peaks_ptr + 2 * part + 1, mask=there, other=0.0)
            other_sums = tl.load(
                sums_ptr + part.to(tl.int64)[:, None] * VALUE + e[None, :], mask=there & (e < VALUE)[None, :], other=0.0
            )
            peak, total, sums = merge(peak, total, sums, other_peak, other_total, other_sums)
    sinks = tl.full([1], float("-inf"), tl.float32)
    if SINKS:
        sinks = tl.load(sinks_ptr + head + one) * LOG2E
    out = divide(peak, total, sums, sinks)
    token = ((start + query).to(tl.int64) * HEADS + head + one)[:, None] * VALUE
    tl.store(out_ptr + token + e[None, :], out.to(out_ptr.dtype.element_ty), mask=(e < VALUE)[None, :])


@dataclass(frozen=True)
class Work:
    """One step, as the kernels want it. All int32, on the device.

    `rows_R4` are START, COUNT, the exact LENGTH, and the first of its partial results (AT), or -1 where it has none.
    `items_I4` are ROW, TILE, FIRST split and how MANY of them, 0 for none. `queries_S2` are the row and number of each
    query whose keys were split, -1 for none; there are `queries`, split or not. `parts` are partial results: of one
    query, H heads x its splits. `trees_T` as in `Paged`.
    """

    rows_R4: Tensor
    items_I4: Tensor
    queries_S2: Tensor
    tables: Tensor
    queries: int
    lines: int
    parts: int
    trees_T: Tensor | None


@dataclass(frozen=True)
class Planned:
    """What `Work` will be, before it is on the device. `at_R` and the four columns of items in int64."""

    at_R: NDArray[np.int64]
    items_I4: NDArray[np.int64]
    lines: int
    parts: int


@dataclass(frozen=True)
class Tiles:
    """How the elements of heads are cut, see `attend`. A function of the model alone, as the bits depend on `keys`."""

    main: int
    rest: int
    values: int
    keys: int
    few_lines: int
    most_lines: int
    warp_lines: int  # that each warp has a share of
    stages: int


def tiles_of(size: int, value: int, element: int) -> Tiles:
    """For heads of so many elements of so many bytes: what fits into the registers and shared memory of sm_90."""
    main, values = max(1 << size.bit_length() - 1, 16), max(triton.next_power_of_2(value), 16)
    rest = max(triton.next_power_of_2(size - main), 16) if size > main else 0
    if rest == main:
        main, rest = 2 * main, 0
    if max(main, values) * element <= 256:
        return Tiles(main, rest, values, keys=64, few_lines=64, most_lines=128, warp_lines=16, stages=3)
    lines = 64 if values <= 256 else 32
    return Tiles(main, rest, values, keys=32, few_lines=lines, most_lines=lines, warp_lines=lines // 8, stages=2)


def plan(
    counts: NDArray[np.int64], lengths: NDArray[np.int64], heads: int, kv_heads: int, tiles: Tiles, room: int
) -> Planned:
    """Who computes what, at most: `lengths` are upper bounds. Where a row is shorter its last items find no keys, and
    its partial results stand closer. A row of one tile is split where it has more splits than its share of a full
    device, and where there is room for its partial results. Long items come first, so that none is begun when all
    others are done.
    """
    group = heads // kv_heads
    lines = tiles.most_lines if (counts * group > tiles.few_lines).any() else tiles.few_lines
    tiles_R, splits_R = -(-counts * group // lines), -(-lengths // SPLIT)
    row_I, tile_I = np.repeat(np.arange(len(counts)), tiles_R), _numbers(tiles_R)
    last_I = np.minimum((tile_I + 1) * lines, (counts * group)[row_I]) - 1
    many_I = ((lengths - counts)[row_I] + last_I // group) // SPLIT + 1
    fair = max(-(-int(many_I.sum()) * kv_heads // PROGRAMS), 1)
    while (needed_R := np.where((tiles_R == 1) & (splits_R > fair), counts * heads * splits_R, 0)).sum() > room:
        fair *= 2
    apart_I = needed_R[row_I] > 0
    runs_I = np.where(apart_I, -(-many_I // fair), 1)
    row, tile, most, each = (
        np.repeat(of_I, runs_I) for of_I in (row_I, tile_I, many_I, np.where(apart_I, fair, many_I))
    )
    first = _numbers(runs_I) * each
    items = np.stack((row, tile, first, np.minimum(most - first, each)), axis=1)
    at_R = np.where(needed_R > 0, _before(needed_R), -1)
    return Planned(at_R, items[np.argsort(-items[:, 3], kind="stable")], lines, int(needed_R.sum()))


def _numbers(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... for each of several counts."""
    return np.arange(counts.sum()) - np.repeat(_before(counts), counts)


def _before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts) - counts


class TritonAttention:
    """`--attention-backend triton`."""

    def __init__(self, shape: AttentionShape, device: torch.device) -> None:
        self._shape, self._device = shape, device
        self._staging = staging_of(device)
        value = shape.value_dim or shape.head_dim
        self._tiles = tiles_of(shape.head_dim, value, ELEMENT_BYTES[shape.dtype])
        self._room = PART_BYTES // (4 * value + 8)

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        reasons = []
        if shape.dtype not in ("float32", "bfloat16", "float16"):
            reasons.append(f"it computes in float32, bfloat16 and float16, not in {shape.dtype}")
        for size in {shape.head_dim, shape.value_dim or shape.head_dim}:
            if size > LARGEST:
                reasons.append(f"heads have {size} elements, more than {LARGEST}")
        return reasons

    def prepare(self, paged: Paged) -> Work:
        counts, lengths = np.asarray(paged.counts), np.asarray(paged.lengths)
        planned = plan(counts, lengths, self._shape.heads, self._shape.kv_heads, self._tiles, self._room)
        apart = np.flatnonzero(planned.at_R >= 0)
        queries = np.stack((np.repeat(apart, counts[apart]), _numbers(counts[apart])), axis=1)
        rows = np.stack((np.asarray(paged.starts), counts, lengths, planned.at_R), axis=1)
        rows_R4, items_I4, queries_S2 = self._staging.send(
            *(each.astype(np.int32) for each in (rows, planned.items_I4, queries))
        )
        if paged.lengths_N is not None:
            rows_R4[:, LENGTH.value] = paged.lengths_N.to(self._device, non_blocking=True)
        tables = paged.tables.to(self._device, torch.int32, non_blocking=True).contiguous()
        trees_T = None if paged.trees_T is None else paged.trees_T.to(self._device, non_blocking=True)
        return Work(rows_R4, items_I4, queries_S2, tables, int(counts.sum()), planned.lines, planned.parts, trees_T)

    def lasting(self, meta: Work, pages: int) -> Work:
        """With room for as many items as rows of so many queries can have, however long they are."""
        rows, group = len(meta.rows_R4), self._shape.heads // self._shape.kv_heads
        most = rows + meta.queries * group // meta.lines + -(-PROGRAMS // self._shape.kv_heads)
        own = Work(
            torch.empty_like(meta.rows_R4),
            meta.items_I4.new_empty(most, 4),
            meta.queries_S2.new_empty(meta.queries, 2),
            meta.tables.new_zeros(rows, pages),
            meta.queries,
            meta.lines,
            self._room,
            None if meta.trees_T is None else torch.empty_like(meta.trees_T),
        )
        self.refresh(own, meta)
        return own

    def refresh(self, own: Work, meta: Work) -> None:
        assert (own.queries, own.lines) == (meta.queries, meta.lines), "a step of another kind"
        assert (own.trees_T is None) == (meta.trees_T is None), "a step with trees is one of another kind"
        if own.trees_T is not None and meta.trees_T is not None:
            own.trees_T.copy_(meta.trees_T)
        own.rows_R4.copy_(meta.rows_R4)
        own.tables[:, : meta.tables.shape[1]] = meta.tables
        for kept, new, none in ((own.items_I4, meta.items_I4, 0), (own.queries_S2, meta.queries_S2, -1)):
            kept[: len(new)] = new
            kept[len(new) :] = none

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Work, rule: Rule) -> Tensor:
        q_THC = q_THC.contiguous()
        heads, size = q_THC.shape[1:]
        kv_heads, page, value = k_pool_PKSC.shape[1], k_pool_PKSC.shape[2], value_size(q_THC, v_pool_PKSC)
        assert (heads, kv_heads) == (self._shape.heads, self._shape.kv_heads), "one shape of heads in all layers"
        tiles = self._tiles
        out_THC = q_THC.new_empty(q_THC.shape[0], heads, value)
        sums = q_THC.new_empty(meta.parts, value, dtype=torch.float32)
        peaks = q_THC.new_empty(meta.parts, 2, dtype=torch.float32)
        seen = (rule.window or NEVER, rule.chunk or NEVER)
        attend[(len(meta.items_I4), kv_heads)](
            q_THC,
            launched(k_pool_PKSC),
            launched(v_pool_PKSC),
            scales(k_pool_PKSC),
            scales(v_pool_PKSC),
            q_THC if rule.sinks_H is None else rule.sinks_H,
            out_THC,
            sums,
            peaks,
            meta.rows_R4,
            meta.items_I4,
            meta.tables,
            meta.tables if meta.trees_T is None else meta.trees_T,
            rule.scale,
            rule.softcap or 1.0,
            *seen,
            *k_pool_PKSC.stride()[:3],
            *v_pool_PKSC.stride()[:3],
            meta.tables.stride(0),
            HEADS=heads,
            GROUP=heads // kv_heads,
            SIZE=size,
            MAIN=tiles.main,
            REST=tiles.rest,
            VALUE=value,
            VALUES=tiles.values,
            SHARED=v_pool_PKSC.data_ptr() == k_pool_PKSC.data_ptr() and value == tiles.main,
            PAGE=page,
            SCALED=k_pool_PKSC.dtype is torch.int8,
            CAPPED=rule.softcap is not None,
            SINKS=rule.sinks_H is not None,
            TREES=meta.trees_T is not None,
            LINES=meta.lines,
            KEYS=tiles.keys,
            SPLIT=SPLIT,
            num_warps=meta.lines // tiles.warp_lines,
            num_stages=tiles.stages,
        )
        if len(meta.queries_S2):
            combine[(len(meta.queries_S2), heads)](
                sums,
                peaks,
                q_THC if rule.sinks_H is None else rule.sinks_H,
                out_THC,
                meta.rows_R4,
                meta.queries_S2,
                *seen,
                HEADS=heads,
                VALUE=value,
                VALUES=tiles.values,
                SINKS=rule.sinks_H is not None,
                TREES=meta.trees_T is not None,
                SPLIT=SPLIT,
                UNROLL=8,
                num_warps=max(tiles.values // 128, 1),
            )
        return out_THC
