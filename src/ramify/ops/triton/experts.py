"""Mixtures of experts: who computes a token, rows sorted by expert, linears of rows so sorted, what they give added up.

No kernel asks the host how many rows an expert has: grids are as large as there may be work, and a program that has
none ends at once. So steps of such models can be captured.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.routing import Routing
from ramify.ops.triton.linear import product, slices_of
from ramify.ops.triton.rows import LOG2E
from ramify.ops.triton.tiles import Tile, Tiles, finish, group_tile_at

SCORES = {"softmax": 0, "sigmoid": 1, "logit": 2}
AFTER = {"nothing": 0, "sum": 1, "softmax": 2, "sigmoid": 3}
SOFTMAX, SIGMOID = tl.constexpr(0), tl.constexpr(1)
SUM, SOFTMAX_AFTER, SIGMOID_AFTER = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
CHUNK = 128  # rows that a program sorts: each is compared with each
COUNTED = 128  # groups that a program counts
STEP = 8  # chunks whose counts are added up at once


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * -LOG2E))


@triton.jit
def first_of_largest(x, open_, number, END: tl.constexpr):
    """Among those that are open the first with the largest x, by its number; `END` where none is open."""
    largest = tl.max(tl.where(open_, x, float("-inf")))
    return tl.min(tl.where(open_ & (x == largest), number, END))


@triton.jit
def group_scores(rated, there, s, POOLED: tl.constexpr, SIZE: tl.constexpr):
    """Of rows [N, S] the largest number of each, or the sum of its two largest."""
    inside = tl.where(there, rated, float("-inf"))
    best = tl.max(inside, 1)
    if POOLED == 2:
        at = tl.min(tl.where(there & (inside == best[:, None]), s[None, :], SIZE), 1)
        best += tl.max(tl.where(s[None, :] == at[:, None], float("-inf"), inside), 1)
    return best


@triton.jit
def route(
    logits_ptr,
    correction_ptr,
    weights_ptr,
    chosen_ptr,
    scale,
    CHOSEN: tl.constexpr,
    GROUPS: tl.constexpr,
    BEST: tl.constexpr,
    SIZE: tl.constexpr,
    POOLED: tl.constexpr,
    SCORE: tl.constexpr,
    AFTER: tl.constexpr,
    CORRECTED: tl.constexpr,
    BN: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    """A token. Experts stand as [groups, experts of a group]; the first among equals is chosen, NaN before all."""
    token, n, s, c = tl.program_id(0).to(tl.int64), tl.arange(0, BN), tl.arange(0, BS), tl.arange(0, BC)
    there = (n < GROUPS)[:, None] & (s < SIZE)[None, :]
    expert = tl.where(there, n[:, None] * SIZE + s[None, :], GROUPS * SIZE)  # what fills up has no other's number
    score = tl.load(logits_ptr + token * GROUPS * SIZE + expert, mask=there, other=float("-inf"))
    if SCORE == SOFTMAX:
        score = tl.exp2((score - tl.max(score)) * LOG2E)
        score = score / tl.sum(score)
    elif SCORE == SIGMOID:
        score = sigmoid(score)
    rated = score
    if CORRECTED:
        rated += tl.load(correction_ptr + expert, mask=there, other=0.0)
    rated = tl.where(rated == rated, rated, float("inf"))
    if BEST < GROUPS:
        of_group, open_n = group_scores(rated, there, s, POOLED, SIZE), n < GROUPS
        for _ in tl.static_range(BEST):
            open_n &= n != first_of_largest(of_group, open_n, n, BN)
        there &= ((n < GROUPS) & (open_n == 0))[:, None]
    weights, chosen, total = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.int64), 0.0
    for k in tl.static_range(CHOSEN):
        number = tl.minimum(first_of_largest(rated, there, expert, GROUPS * SIZE), GROUPS * SIZE - 1)
        weight = tl.sum(tl.where(expert == number, score, 0.0))
        weights, chosen = tl.where(c == k, weight, weights), tl.where(c == k, number, chosen)
        total += weight
        there &= expert != number
    if AFTER == SUM:
        weights = weights / (total + 1e-20)
    elif AFTER == SOFTMAX_AFTER:
        weights = tl.where(c < CHOSEN, weights, float("-inf"))
        weights = tl.exp2((weights - tl.max(weights)) * LOG2E)
        weights = weights / tl.sum(weights)
    elif AFTER == SIGMOID_AFTER:
        weights = sigmoid(weights)
    tl.store(weights_ptr + token * CHOSEN + c, weights * scale, mask=c < CHOSEN)
    tl.store(chosen_ptr + token * CHOSEN + c, chosen, mask=c < CHOSEN)


@triton.jit
def count(group_ptr, counts_ptr, rows, groups, COUNTED: tl.constexpr, CHUNK: tl.constexpr):
    """How many rows of a chunk are each group's."""
    chunk, g = tl.program_id(0), tl.program_id(1) * COUNTED + tl.arange(0, COUNTED)
    r = chunk * CHUNK + tl.arange(0, CHUNK)
    of_row = tl.load(group_ptr + r, mask=r < rows, other=-1).to(tl.int32)
    many = tl.sum((of_row[:, None] == g[None, :]).to(tl.int32), 0)
    tl.store(counts_ptr + chunk * groups + g, many, mask=g < groups)


@triton.jit
def place(
    group_ptr,
    counts_ptr,
    order_ptr,
    at_ptr,
    ends_ptr,
    rows,
    groups,
    chunks,
    CHOSEN: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Rows of a chunk to behind those of groups before, and those of their group in chunks before, in their order."""
    chunk, g, i = tl.program_id(0), tl.arange(0, BLOCK), tl.arange(0, CHUNK)
    total, before = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for first in range(0, chunks, STEP):
        c = first + tl.arange(0, STEP)
        inside = (c < chunks)[:, None] & (g < groups)[None, :]
        many = tl.load(counts_ptr + c[:, None] * groups + g[None, :], mask=inside, other=0)
        total += tl.sum(many, 0)
        before += tl.sum(tl.where((c < chunk)[:, None], many, 0), 0)
    end = tl.cumsum(total, 0)
    if chunk == 0:
        tl.store(ends_ptr + g, end.to(tl.int64), mask=g < groups)
    r = chunk * CHUNK + i
    of_row = tl.load(group_ptr + r, mask=r < rows, other=BLOCK).to(tl.int32)
    alike = (of_row[:, None] == of_row[None, :]) & (i[None, :] < i[:, None])
    start = tl.gather(end - total + before, tl.minimum(of_row, BLOCK - 1), 0)
    at = start + tl.sum(alike.to(tl.int32), 1)
    tl.store(at_ptr + r, at.to(tl.int64), mask=r < rows)
    tl.store(order_ptr + at, (r // CHOSEN).to(tl.int64), mask=r < rows)


def sorted_rows(group_R: Tensor, groups: int, chosen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows that each have a number of `groups`: which token is where when they are sorted, `chosen` of each; where
    rows of each group end, and where each row stands.
    """
    rows, device = len(group_R), group_R.device
    chunks = max(triton.cdiv(rows, CHUNK), 1)
    counts = torch.empty(chunks, groups, dtype=torch.int32, device=device)
    order_R, at_R = (torch.empty(rows, dtype=torch.int64, device=device) for _ in range(2))
    ends_G = torch.empty(groups, dtype=torch.int64, device=device)
    count[(chunks, triton.cdiv(groups, COUNTED))](group_R, counts, rows, groups, COUNTED=COUNTED, CHUNK=CHUNK)
    place[(chunks,)](
        group_R,
        counts,
        order_R,
        at_R,
        ends_G,
        rows,
        groups,
        chunks,
        CHOSEN=chosen,
        BLOCK=max(triton.next_power_of_2(groups), 16),
        CHUNK=CHUNK,
        STEP=STEP,
    )
    return order_R, ends_G, at_R


@triton.jit
def grouped_linear(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    ends_ptr,
    groups,
    E: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    SLICES: tl.constexpr,
    BIAS: tl.constexpr,
    BE: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """All slices of a tile: there are groups enough to fill the device."""
    group, e, t, e_there, t_there = group_tile_at(ends_ptr, groups, E, BLOCK, BE, BT)
    if group == groups:
        return
    w_row, x_row = (group.to(tl.int64) * E + e) * K, t.to(tl.int64) * K
    total = product(w_ptr, x_ptr, w_row, x_row, e_there, t_there, K, SLICE, SLICES, BE, BT, BK)
    finish(total, bias_ptr + group * E, y_ptr, e, t, e_there, t_there, E, BIAS)


@triton.jit
def combine(y_ptr, rows_ptr, weights_ptr, out_ptr, size, CHOSEN: tl.constexpr, PIECE: tl.constexpr):
    """The weighted rows of a token, added in the order of its choice."""
    token, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    total = tl.zeros([PIECE], tl.float32)
    for k in tl.static_range(CHOSEN):
        row = tl.load(rows_ptr + token * CHOSEN + k).to(tl.int64)
        y = tl.load(y_ptr + row * size + d, mask=d < size, other=0.0).to(tl.float32)
        total = tl.fma(y, tl.load(weights_ptr + token * CHOSEN + k).to(tl.float32), total)
    tl.store(out_ptr + token * size + d, total.to(out_ptr.dtype.element_ty), mask=d < size)


class Mixtures:
    """Behind the signatures of `ops.kernels`."""

    def __init__(self, tiles: Tiles | None = None) -> None:
        self._tiles = tiles or Tiles()

    def route(self, logits_TG: Tensor, correction_G: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
        logits_TG = logits_TG.contiguous()
        assert logits_TG.dtype is torch.float32
        tokens, size = len(logits_TG), logits_TG.shape[1] // routing.groups
        weights_TK = logits_TG.new_empty(tokens, routing.chosen)
        chosen_TK = torch.empty(weights_TK.shape, dtype=torch.int64, device=logits_TG.device)
        if tokens:
            route[(tokens,)](
                logits_TG,
                logits_TG if correction_G is None else correction_G,
                weights_TK,
                chosen_TK,
                routing.scale,
                CHOSEN=routing.chosen,
                GROUPS=routing.groups,
                BEST=routing.best_groups,
                SIZE=size,
                POOLED=routing.pooled,
                SCORE=SCORES[routing.score],
                AFTER=AFTER[routing.after],
                CORRECTED=correction_G is not None,
                BN=triton.next_power_of_2(routing.groups),
                BS=triton.next_power_of_2(size),
                BC=triton.next_power_of_2(routing.chosen),
                num_warps=1 if logits_TG.shape[1] <= 256 else 4,
            )
        return weights_TK, chosen_TK

    def by_expert(self, chosen_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        order_R, ends_G, at_R = sorted_rows(chosen_TK.flatten(), count, chosen_TK.shape[1])
        return order_R, ends_G, at_R.view(chosen_TK.shape)

    def grouped_linear(self, x_RD: Tensor, weight_GED: Tensor, bias_GE: Tensor | None, ends_G: Tensor) -> Tensor:
        x_RD = x_RD.contiguous()
        rows, (groups, outputs, inputs) = len(x_RD), weight_GED.shape
        y_RE = x_RD.new_empty(rows, outputs)
        if not rows:
            return y_RE
        slices, size = slices_of(outputs, inputs)
        tile = self._tiles.of("grouped", tokens_of_a_tile(rows, groups), outputs, inputs, x_RD.element_size())
        grouped_linear[group_grid(rows, groups, outputs, tile)](
            x_RD,
            weight_GED,
            x_RD if bias_GE is None else bias_GE,
            y_RE,
            ends_G,
            groups,
            E=outputs,
            K=inputs,
            BLOCK=triton.next_power_of_2(groups),
            SLICE=size,
            SLICES=slices,
            BIAS=bias_GE is not None,
            BE=tile.outputs,
            BT=tile.tokens,
            BK=tile.inputs,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        return y_RE

    def combine(self, y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor) -> Tensor:
        y_RD, rows_TK, weights_TK = y_RD.contiguous(), rows_TK.contiguous(), weights_TK.contiguous()
        (tokens, chosen), size = rows_TK.shape, y_RD.shape[1]
        out_TD = y_RD.new_empty(tokens, size)
        if tokens:
            combine[(tokens, triton.cdiv(size, 1024))](
                y_RD, rows_TK, weights_TK, out_TD, size, CHOSEN=chosen, PIECE=1024
            )
        return out_TD


def tokens_of_a_tile(rows: int, groups: int) -> int:
    """For which tiles are chosen: twice what a group has where all have as many."""
    return min(rows, max(2 * rows // groups, 1))


def group_grid(rows: int, groups: int, outputs: int, tile: Tile) -> tuple[int, int]:
    """As many tiles as there may be, whatever the groups are: how rows are divided is known on the device alone."""
    return triton.cdiv(outputs, tile.outputs), min(triton.cdiv(rows, tile.tokens) + groups, rows)
