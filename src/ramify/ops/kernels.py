"""What a kernel must compute. The default of every entry is its plain PyTorch reference.

A platform replaces the entries it computes faster, with the same signature; one test walks this class and compares
every replacement with its reference over a grid of shapes.

Shape suffixes: T tokens of a step, D hidden, E rows of a fused projection, H query heads, K key-value heads, C head
size, R pairs that are rotated, P pages, S slots of a page, V vocabulary, N requests or runs, G groups (experts), K
chosen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.ops.lora import LowRanks
from ramify.ops.reference import basic, choose, encode, experts, fp8, int4, int8, lora, random, rope, sample, state
from ramify.ops.routing import Routing
from ramify.ops.states import Spans


@dataclass(frozen=True)
class Packing:
    """Linears over weights stored in a way of their own: in another order, or quantized.

    pack(weight_ED) -> packed
    linear(x_TD, packed, E, bias_E | None) -> y_TE
    embed(tokens_T, packed, D) -> x_TD: rows of the weight by number, as they are stored or in float32. None
        where no embedding is stored so
    pack_groups(weight_GED) -> packed
    grouped_linear(x_RD, packed, E, bias_GE | None, ends_G) -> y_RE: as `Kernels.grouped_linear`. Both are None where
        experts are not stored so
    together(G x packed, E) -> packed: as `pack_groups` makes it, of what `pack` or `take` made of each group by itself.
        None where groups are packed as a whole
    take(whole_ED, scale) -> packed, of weights that are quantized already: int8 with scale_E, or halves of bytes from 0
        to 15 in uint8 with a scale per 32 inputs, rounded to bfloat16. None where weights are not whole numbers
    """

    pack: Callable[[Tensor], Tensor]
    linear: Callable[[Tensor, Tensor, int, Tensor | None], Tensor]
    embed: Callable[[Tensor, Tensor, int], Tensor] | None = None
    pack_groups: Callable[[Tensor], Tensor] | None = None
    grouped_linear: Callable[[Tensor, Tensor, int, Tensor | None, Tensor], Tensor] | None = None
    take: Callable[[Tensor, Tensor], Tensor] | None = None
    together: Callable[[Sequence[Tensor], int], Tensor] | None = None


@dataclass(frozen=True)
class Kernels:
    """One function per op.

    linear(x_TD, weight_ED, bias_E | None) -> y_TE
    embed(tokens_T, weight_VD) -> x_TD
    rms_norm(x_TD, weight_D, eps, offset=0) -> y_TD: `offset` is added to the weight (Gemma)
    add_rms_norm(x_TD, residual_TD, weight_D, eps, offset=0) -> (normed_TD, sum_TD): the sum is the next residual
    gated(gate_up_TE, activation) -> y_T(E/2): the activation of the first half times the second
    activate(x_TE, activation) -> y_TE
    softcap(x, cap) -> cap tanh(x / cap), of fp32
    qkv_rope_store(qkv_TE, heads, q_norm_C | None, k_norm_C | None, eps, cos_TR, sin_TR, k_pool_PKSC, v_pool_PKSC,
        write_at_T, interleaved=False, offset=0) -> q_THC: splits the fused projection, normalises q and k per head if
        asked (`offset` is added to the weights), rotates the first 2 R elements of each head, and writes k and v to
        slot write_at (page x page size + offset) of the pools. Pairs are (i, i + R), or (2i, 2i + 1) if interleaved
    rotate(x_THC, cos_TR, sin_TR, interleaved) -> x_THC
    store(x_TKC, pool_PKSC, write_at_T)
    route(logits_TG, correction_G | None, routing) -> (weights_TK, chosen_TK): which experts compute a token and what
        each of them counts, by falling score (`ops.routing.Routing`); all in fp32
    by_expert(chosen_TK, count) -> (tokens_R, ends_G, rows_TK): rows sorted by which of `count` experts computes them,
        in the order they had: the token of each, where the rows of every expert end, and which rows are a token's
    grouped_linear(x_RD, weight_GED, bias_GE | None, ends_G) -> y_RE: rows are sorted by group, and those of group g end
        before row ends_G[g]
    combine(y_RD, rows_TK, weights_TK) -> out_TD: the sum over k of weights[t, k] y[rows[t, k]], in their order
    sample(logits_RV, temperature_R, top_k_R, top_p_R, min_p_R, random_R, greedy_R) -> (tokens_R, broken_R): a token
        per row of fp32 logits by a random number in [0, 1), of what top-k, top-p (Holtzman et al. 2020) and min-p
        keep; all three look at the same full distribution, as in SGLang. Broken are rows with NaN or no finite logit
    best(logits_RV) -> (tokens_R, broken_R): what `sample` gives where all rows are greedy
    uniform(seeds_R, choices_R, positions_R, purpose) -> random_R: doubles in (0, 1), see `ops.reference.random`
    log_probabilities(logits_NV, tokens_N) -> logp_N: of one token of each row, in fp32
    forbid(logits_RV, rows_M, words_MW): minus infinity, in place, to the tokens of row rows[m] whose bit in words[m],
        int32, is not set (`wire.masks`)
    penalise(logits_RV, rows_M, tokens_SC, slots_M, first_M, end_M, frequency_M, presence_M, repetition_M, longest): in
        place, fp32, by the tokens tokens[slots[m], first[m] : end[m]] that row rows[m] has generated, `longest` at most
    layer_norm(x_TD, weight_D, bias_D | None, eps) -> y_TD
    add_layer_norm(x_TD, residual_TD, weight_D, bias_D | None, eps) -> (normed_TD, sum_TD)
    rotate_qk(qkv_TE, heads, cos_TR, sin_TR) -> qkv_TE: q and k of a fused projection rotated; may write in place
    attend_texts(qkv_TE, heads, starts_N, counts_N, window, scale) -> y_TD: attention in both directions within each of
        N texts that stand one behind the other, of as many key-value heads as query heads; with a window above 0 of
        positions no further away than that
    angles: the type of cos and sin for the three that rotate, None for that of what is rotated
    conv(x_TE, weight_WE, bias_E | None, pool_PWE, spans) -> y_TE: SiLU of a causal convolution of every channel by
        itself, over the tokens of a row and the W - 1 before it, which are in its slot
    ssd(xbc_TE, dt_TH, decay_H, bias_H, skip_H, limits, groups, pool_PHVB, spans) -> y_TE in fp32: the selective scan of
        Mamba 2 (Dao and Gu 2024). With d = softplus(dt + bias) within limits, a head's state S becomes
        exp(decay d) S + d x b', and y = S c + skip x
    delta(qkv_TE, a_TH, b_TH, decay_H, bias_H, groups, pool_PHBV, spans) -> y_TE in fp32: the gated delta rule (Yang et
        al. 2024). With q and k of length 1 and q scaled, S becomes exp(decay softplus(a + bias)) S, then
        S + sigmoid(b) k (v - S' k)', and y = S' q
        Both keep states in fp32 and compute a token after the other, whatever the spans (`ops.states.Spans`)
    lora(y_TE, x_TD, runs_N3, table): adds to rows of y, in place, what an adapter makes of those of x. Runs are int32
        (start, stop, slot), ascending; rows that no run has are left alone, an empty run has none. Sums are in fp32 and
        rounded once, and a row's bits are its own
    packing: None where weights stay as they come
    w8a8: weights in int8 with a scale per output; a linear makes its input int8 with a scale per row and sums up
        exactly, so that a row's bits are its own
    int4: weights in four bits with a scale per output and 32 inputs; inputs become int8 with a scale per row and 32 on
        a CPU and stay as they are on a GPU
    fp8: weights in e4m3 with a scale per output; inputs become e4m3 with a scale per row
    """

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = basic.linear
    embed: Callable[[Tensor, Tensor], Tensor] = basic.embed
    rms_norm: Callable[..., Tensor] = basic.rms_norm
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]] = basic.add_rms_norm
    gated: Callable[[Tensor, str], Tensor] = basic.gated
    activate: Callable[[Tensor, str], Tensor] = basic.activate
    softcap: Callable[[Tensor, float], Tensor] = basic.softcap
    qkv_rope_store: Callable[..., Tensor] = rope.qkv_rope_store
    rotate: Callable[..., Tensor] = rope.rotate
    store: Callable[[Tensor, Tensor, Tensor], None] = rope.store
    route: Callable[[Tensor, Tensor | None, Routing], tuple[Tensor, Tensor]] = experts.route
    by_expert: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]] = experts.by_expert
    grouped_linear: Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor] = experts.grouped_linear
    combine: Callable[[Tensor, Tensor, Tensor], Tensor] = experts.combine
    best: Callable[[Tensor], tuple[Tensor, Tensor]] = sample.best
    sample: Callable[..., tuple[Tensor, Tensor]] = sample.sample
    uniform: Callable[[Tensor, Tensor, Tensor, int], Tensor] = random.uniform
    log_probabilities: Callable[[Tensor, Tensor], Tensor] = choose.log_probabilities
    forbid: Callable[[Tensor, Tensor, Tensor], None] = choose.forbid
    penalise: Callable[..., None] = choose.penalise
    layer_norm: Callable[[Tensor, Tensor, Tensor | None, float], Tensor] = encode.layer_norm
    add_layer_norm: Callable[..., tuple[Tensor, Tensor]] = encode.add_layer_norm
    rotate_qk: Callable[[Tensor, int, Tensor, Tensor], Tensor] = encode.rotate_qk
    attend_texts: Callable[[Tensor, int, Tensor, Tensor, int, float], Tensor] = encode.attend_texts
    angles: torch.dtype | None = None
    conv: Callable[[Tensor, Tensor, Tensor | None, Tensor, Spans], Tensor] = state.conv
    ssd: Callable[..., Tensor] = state.ssd
    delta: Callable[..., Tensor] = state.delta
    lora: Callable[[Tensor, Tensor, Tensor, LowRanks], None] = lora.lora
    packing: Packing | None = None
    w8a8: Packing = Packing(int8.store, int8.linear, int8.embed, take=int8.take)
    int4: Packing = Packing(int4.store, int4.linear, take=int4.take)
    fp8: Packing = Packing(fp8.store, fp8.linear, take=fp8.take)
