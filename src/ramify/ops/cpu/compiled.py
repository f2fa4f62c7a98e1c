"""Kernels of the compiled library behind the signatures of `ops.kernels`. For float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ramify.config.stored import GROUP
from ramify.ops.cpu.encoding import CompiledEncoding
from ramify.ops.cpu.record import Functions
from ramify.ops.kernels import Kernels, Packing

PANEL = 16  # outputs that are packed side by side
TYPES = (torch.float32, torch.bfloat16)
POOLS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # of what may stand in pages, their numbers


def _is_bf16(tensor: Tensor) -> int:
    return int(tensor.dtype is torch.bfloat16)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Compiled:
    """One library, loaded. Tensors are dense, their last dimension at least."""

    def __init__(self, library: Functions) -> None:
        self._library = library

    # -- linears -------------------------------------------------------------------------------------------------------

    def pack(self, weight_ED: Tensor) -> Tensor:
        outputs, inputs = weight_ED.shape
        group = 2 if _is_bf16(weight_ED) else 1
        size = -(-outputs // PANEL) * PANEL * (-(-inputs // group) * group)
        packed = torch.empty(size, dtype=weight_ED.dtype)
        weight = weight_ED.contiguous()
        self._library.ramify_pack(_is_bf16(weight), weight.data_ptr(), outputs, inputs, packed.data_ptr())
        return packed

    def pack_int8(self, weight_ED: Tensor) -> Tensor:
        """Panels of int8, each with its scales and sums before it: see csrc/int8.inc."""
        outputs, inputs = weight_ED.shape
        packed = torch.empty(-(-outputs // PANEL) * PANEL * (8 + -(-inputs // 4) * 4), dtype=torch.int8)
        weight = weight_ED.contiguous()
        self._library.ramify_pack_int8(_is_bf16(weight), weight.data_ptr(), outputs, inputs, packed.data_ptr())
        return packed

    def linear(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return self._linear(self._library.ramify_linear, x_TD, packed, outputs, bias_E)

    def linear_int8(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return self._linear(self._library.ramify_linear_int8, x_TD, packed, outputs, bias_E)

    def pack_int4(self, weight_ED: Tensor) -> Tensor:
        """Panels of groups, each with its scales before it: see csrc/int4.inc."""
        outputs, inputs = weight_ED.shape
        packed = torch.empty(-(-outputs // PANEL) * PANEL * -(-inputs // GROUP) * (GROUP // 2 + 2), dtype=torch.uint8)
        weight = weight_ED.contiguous()
        self._library.ramify_pack_int4(_is_bf16(weight), weight.data_ptr(), outputs, inputs, packed.data_ptr())
        return packed

    def linear_int4(self, x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None) -> Tensor:
        return self._linear(self._library.ramify_linear_int4, x_TD, packed, outputs, bias_E)

    def _linear(
        self, compute: Callable[..., None], x_TD: Tensor, packed: Tensor, outputs: int, bias_E: Tensor | None
    ) -> Tensor:
        if x_TD.stride(1) != 1:
            x_TD = x_TD.contiguous()
        rows, inputs = x_TD.shape
        y_TE = torch.empty(rows, outputs, dtype=x_TD.dtype)
        compute(
            _is_bf16(x_TD),
            x_TD.data_ptr(),
            packed.data_ptr(),
            _pointer(bias_E),
            y_TE.data_ptr(),
            rows,
            inputs,
            outputs,
            x_TD.stride(0),
            outputs,
        )
        return y_TE

    def embed(self, tokens_T: Tensor, packed: Tensor, inputs: int) -> Tensor:
        count = tokens_T.shape[0]
        tokens_T = tokens_T.to(torch.int64).contiguous()
        y_TD = torch.empty(count, inputs, dtype=packed.dtype)
        self._library.ramify_embed(
            _is_bf16(packed), tokens_T.data_ptr(), count, packed.data_ptr(), inputs, y_TD.data_ptr()
        )
        return y_TD

    def embed_int8(self, tokens_T: Tensor, packed: Tensor, inputs: int) -> Tensor:
        tokens_T = tokens_T.to(torch.int64).contiguous()
        y_TD = torch.empty(len(tokens_T), inputs, dtype=torch.float32)
        self._library.ramify_embed_int8(tokens_T.data_ptr(), len(tokens_T), packed.data_ptr(), inputs, y_TD.data_ptr())
        return y_TD

    # -- tokens by themselves ------------------------------------------------------------------------------------------

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x_TD = x_TD.contiguous()
        y_TD = torch.empty_like(x_TD)
        rows, size = x_TD.shape
        self._library.ramify_norm(
            _is_bf16(x_TD), x_TD.data_ptr(), None, weight_D.data_ptr(), eps, rows, size, y_TD.data_ptr(), None
        )
        return y_TD

    def add_rms_norm(self, x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x_TD, residual_TD = x_TD.contiguous(), residual_TD.contiguous()
        y_TD, total_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        rows, size = x_TD.shape
        self._library.ramify_norm(
            _is_bf16(x_TD),
            x_TD.data_ptr(),
            residual_TD.data_ptr(),
            weight_D.data_ptr(),
            eps,
            rows,
            size,
            y_TD.data_ptr(),
            total_TD.data_ptr(),
        )
        return y_TD, total_TD

    def silu_mul(self, gate_up_TE: Tensor) -> Tensor:
        gate_up_TE = gate_up_TE.contiguous()
        rows, size = gate_up_TE.shape[0], gate_up_TE.shape[1] // 2
        y = torch.empty(rows, size, dtype=gate_up_TE.dtype)
        self._library.ramify_silu_mul(_is_bf16(y), gate_up_TE.data_ptr(), rows, size, y.data_ptr())
        return y

    def qkv_rope_store(
        self,
        qkv_TE: Tensor,
        heads: int,
        q_norm_C: Tensor | None,
        k_norm_C: Tensor | None,
        eps: float,
        cos_TR: Tensor,
        sin_TR: Tensor,
        k_pool_PKSC: Tensor,
        v_pool_PKSC: Tensor,
        write_at_T: Tensor,
    ) -> Tensor:
        _, kv_heads, page_size, _ = k_pool_PKSC.shape
        size = qkv_TE.shape[1] // (heads + 2 * kv_heads)
        qkv_TE, write_at_T = qkv_TE.contiguous(), write_at_T.contiguous()
        cos, sin = cos_TR.float().contiguous(), sin_TR.float().contiguous()
        tokens = qkv_TE.shape[0]
        q_THC = torch.empty(tokens, heads, size, dtype=qkv_TE.dtype)
        self._library.ramify_qkv_rope(
            _is_bf16(qkv_TE),
            POOLS[k_pool_PKSC.dtype],
            qkv_TE.data_ptr(),
            _pointer(q_norm_C),
            _pointer(k_norm_C),
            cos.data_ptr(),
            sin.data_ptr(),
            write_at_T.data_ptr(),
            q_THC.data_ptr(),
            k_pool_PKSC.data_ptr(),
            v_pool_PKSC.data_ptr(),
            eps,
            tokens,
            heads,
            kv_heads,
            size,
            page_size,
        )
        return q_THC

    # -- tokens to come ------------------------------------------------------------------------------------------------

    def sample(
        self,
        logits_RV: Tensor,
        temperature_R: Tensor,
        top_k_R: Tensor,
        top_p_R: Tensor,
        min_p_R: Tensor,
        random_R: Tensor,
        greedy_R: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logits_RV = logits_RV.contiguous()
        rows, vocab = logits_RV.shape
        tokens_R, broken_R = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.bool)
        self._library.ramify_sample(
            logits_RV.data_ptr(),
            temperature_R.data_ptr(),
            top_p_R.data_ptr(),
            min_p_R.data_ptr(),
            top_k_R.data_ptr(),
            random_R.data_ptr(),
            greedy_R.data_ptr(),
            tokens_R.data_ptr(),
            broken_R.data_ptr(),
            rows,
            vocab,
        )
        return tokens_R, broken_R

    def uniform(self, seeds_R: Tensor, choices_R: Tensor, positions_R: Tensor, purpose: int) -> Tensor:
        seeds_R, choices_R, positions_R = (each_R.contiguous() for each_R in (seeds_R, choices_R, positions_R))
        random_R = torch.empty(len(positions_R), dtype=torch.float64)
        self._library.ramify_uniform(
            seeds_R.data_ptr(),
            choices_R.data_ptr(),
            positions_R.data_ptr(),
            purpose,
            len(positions_R),
            random_R.data_ptr(),
        )
        return random_R


def compiled_kernels(library: Functions) -> Kernels:
    made, encoding = Compiled(library), CompiledEncoding(library)
    return Kernels(
        rms_norm=made.rms_norm,
        add_rms_norm=made.add_rms_norm,
        silu_mul=made.silu_mul,
        qkv_rope_store=made.qkv_rope_store,
        sample=made.sample,
        uniform=made.uniform,
        layer_norm=encoding.layer_norm,
        add_layer_norm=encoding.add_layer_norm,
        gelu=encoding.gelu,
        gelu_mul=encoding.gelu_mul,
        rotate_qk=encoding.rotate_qk,
        attend_texts=encoding.attend_texts,
        packing=Packing(made.pack, made.linear, made.embed),
        w8a8=Packing(made.pack_int8, made.linear_int8, made.embed_int8),
        int4=Packing(made.pack_int4, made.linear_int4),
    )
