"""What a kernel must compute. The default of every entry is its plain PyTorch reference.

A platform replaces the entries it computes faster, with the same signature; one test walks this class and compares
every replacement with its reference over a grid of shapes.

Shape suffixes: T tokens of a step, D hidden, E rows of a fused projection, H query heads, K key-value heads, C head
size, R rotary half (C / 2), P pages, S slots of a page, V vocabulary, N requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ramify.ops.reference import basic, encode, int4, int8, random, rope, sample


@dataclass(frozen=True)
class Packing:
    """Linears over weights stored in a way of their own: in another order, or quantized.

    pack(weight_ED) -> packed
    linear(x_TD, packed, E, bias_E | None) -> y_TE
    embed(tokens_T, packed, D) -> x_TD: rows of the weight by number, as they are stored or in float32. None
        where no embedding is stored so
    """

    pack: Callable[[Tensor], Tensor]
    linear: Callable[[Tensor, Tensor, int, Tensor | None], Tensor]
    embed: Callable[[Tensor, Tensor, int], Tensor] | None = None


@dataclass(frozen=True)
class Kernels:
    """One function per op.

    linear(x_TD, weight_ED, bias_E | None) -> y_TE
    embed(tokens_T, weight_VD) -> x_TD
    rms_norm(x_TD, weight_D, eps) -> y_TD
    add_rms_norm(x_TD, residual_TD, weight_D, eps) -> (normed_TD, sum_TD): the sum is the next residual
    silu_mul(gate_up_TE) -> y_T(E/2): silu of the first half times the second
    qkv_rope_store(qkv_TE, heads, q_norm_C | None, k_norm_C | None, eps, cos_TR, sin_TR, k_pool_PKSC, v_pool_PKSC,
        write_at_T) -> q_THC: splits the fused projection, normalises q and k per head if asked, rotates them, and
        writes k and v to slot write_at (page x page size + offset) of the pools
    sample(logits_RV, temperature_R, top_k_R, top_p_R, min_p_R, random_R, greedy_R) -> (tokens_R, broken_R): a token
        per row of fp32 logits by a random number in [0, 1), of what top-k, top-p (Holtzman et al. 2020) and min-p
        keep; all three look at the same full distribution, as in SGLang. Broken are rows with NaN or no finite logit
    uniform(seeds_R, choices_R, positions_R, purpose) -> random_R: doubles in (0, 1), see `ops.reference.random`
    layer_norm(x_TD, weight_D, bias_D | None, eps) -> y_TD
    add_layer_norm(x_TD, residual_TD, weight_D, bias_D | None, eps) -> (normed_TD, sum_TD)
    gelu(x_TE) -> y_TE: by the error function, not the tanh that stands in for it elsewhere
    gelu_mul(gate_up_TE) -> y_T(E/2): gelu of the first half times the second
    rotate_qk(qkv_TE, heads, cos_TR, sin_TR) -> qkv_TE: q and k of a fused projection rotated; may write in place
    attend_texts(qkv_TE, heads, starts_N, counts_N, window, scale) -> y_TD: attention in both directions within each of
        N texts that stand one behind the other, of as many key-value heads as query heads; with a window above 0 of
        positions no further away than that
    packing: None where weights stay as they come
    w8a8: weights in int8 with a scale per output; a linear makes its input int8 with a scale per row and sums up
        exactly, so that a row's bits are its own
    int4: weights in four bits with a scale per output and 32 inputs; inputs become int8 with a scale per row and 32
    """

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = basic.linear
    embed: Callable[[Tensor, Tensor], Tensor] = basic.embed
    rms_norm: Callable[[Tensor, Tensor, float], Tensor] = basic.rms_norm
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] = basic.add_rms_norm
    silu_mul: Callable[[Tensor], Tensor] = basic.silu_mul
    qkv_rope_store: Callable[..., Tensor] = rope.qkv_rope_store
    sample: Callable[..., tuple[Tensor, Tensor]] = sample.sample
    uniform: Callable[[Tensor, Tensor, Tensor, int], Tensor] = random.uniform
    layer_norm: Callable[[Tensor, Tensor, Tensor | None, float], Tensor] = encode.layer_norm
    add_layer_norm: Callable[..., tuple[Tensor, Tensor]] = encode.add_layer_norm
    gelu: Callable[[Tensor], Tensor] = encode.gelu
    gelu_mul: Callable[[Tensor], Tensor] = encode.gelu_mul
    rotate_qk: Callable[[Tensor, int, Tensor, Tensor], Tensor] = encode.rotate_qk
    attend_texts: Callable[[Tensor, int, Tensor, Tensor, int, float], Tensor] = encode.attend_texts
    packing: Packing | None = None
    w8a8: Packing = Packing(int8.store, int8.linear, int8.embed)
    int4: Packing = Packing(int4.store, int4.linear)
