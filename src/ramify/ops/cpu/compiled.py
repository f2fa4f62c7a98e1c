"""Kernels of the compiled library behind the signatures of `ops.kernels`. For float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ramify.config.stored import GROUP
from ramify.ops.cpu.encoding import ANGLES, CompiledEncoding, is_bf16
from ramify.ops.cpu.lora import CompiledLora
from ramify.ops.cpu.quantized import PANEL, take_int4, take_int8
from ramify.ops.cpu.record import Functions
from ramify.ops.cpu.state import CompiledStates
from ramify.ops.kernels import Kernels, Packing
from ramify.ops.reference import experts

TYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3, "sigmoid": 4, "clamped_swiglu": 5}  # as in rows.inc
POOLS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # of what may stand in pages, their numbers


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Compiled:
    """One library, loaded. Tensors are dense, their last dimension at least."""

    def __init__(self, library: Functions) -> None:
        self._library = library

    # -- linears -------------------------------------------------------------------------------------------------------

    def pack(self, weight_ED: Tensor) -> Tensor:
        outputs, inputs = weight_ED.shape
        group = 2 if is_bf16(weight_ED) else 1
        size = -(-outputs // PANEL) * PANEL * (-(-inputs // group) * group)
        packed = torch.empty(size, dtype=weight_ED.dtype)
        weight = weight_ED.contiguous()
        self._library.ramify_pack(is_bf16(weight), weight.data_ptr(), outputs, inputs, packed.data_ptr())
        return packed

    def pack_int8(self, weight_ED: Tensor) -> Tensor:
        """Panels of int8, each with its scales and sums before it: see csrc/int8.inc."""
        outputs, inputs = weight_ED.shape
        packed = torch.empty(-(-outputs // PANEL) * PANEL * (8 + -(-inputs // 4) * 4), dtype=torch.int8)
        weight = weight_ED.contiguous()
        self._library.ramify_pack_int8(is_bf16(weight), weight.data_ptr(), outputs, inputs, packed.data_ptr())
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
        self._library.ramify_pack_int4(is_bf16(weight), weight.data_ptr(), outputs, inputs, packed.data_ptr())
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
            is_bf16(x_TD),
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
            is_bf16(packed), tokens_T.data_ptr(), count, packed.data_ptr(), inputs, y_TD.data_ptr()
        )
        return y_TD

    def embed_int8(self, tokens_T: Tensor, packed: Tensor, inputs: int) -> Tensor:
        tokens_T = tokens_T.to(torch.int64).contiguous()
        y_TD = torch.empty(len(tokens_T), inputs, dtype=torch.float32)
        self._library.ramify_embed_int8(tokens_T.data_ptr(), len(tokens_T), packed.data_ptr(), inputs, y_TD.data_ptr())
        return y_TD

    # -- tokens by themselves ------------------------------------------------------------------------------------------

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        x_TD = x_TD.contiguous()
        y_TD = torch.empty_like(x_TD)
        rows, size = x_TD.shape
        self._library.ramify_norm(
            is_bf16(x_TD), x_TD.data_ptr(), None, weight_D.data_ptr(), eps, offset, rows, size, y_TD.data_ptr(), None
        )
        return y_TD

    def add_rms_norm(
        self, x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        x_TD, residual_TD = x_TD.contiguous(), residual_TD.contiguous()
        y_TD, total_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        rows, size = x_TD.shape
        self._library.ramify_norm(
            is_bf16(x_TD),
            x_TD.data_ptr(),
            residual_TD.data_ptr(),
            weight_D.data_ptr(),
            eps,
            offset,
            rows,
            size,
            y_TD.data_ptr(),
            total_TD.data_ptr(),
        )
        return y_TD, total_TD

    def gated(self, gate_up_TE: Tensor, activation: str) -> Tensor:
        return self._activate(gate_up_TE, activation, gated=True)

    def activate(self, x_TE: Tensor, activation: str) -> Tensor:
        return self._activate(x_TE, activation, gated=False)

    def _activate(self, x: Tensor, activation: str, gated: bool) -> Tensor:
        x = x.contiguous()
        rows, size = x.shape[0], x.shape[1] // (2 if gated else 1)
        y = torch.empty(rows, size, dtype=x.dtype)
        kind = ACTIVATIONS[activation]
        self._library.ramify_activation(is_bf16(x), kind, int(gated), x.data_ptr(), rows, size, y.data_ptr())
        return y

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        self._library.ramify_softcap(y.data_ptr(), cap, y.numel())
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
        interleaved: bool = False,
        offset: float = 0.0,
    ) -> Tensor:
        assert cos_TR.dtype is sin_TR.dtype is ANGLES
        _, kv_heads, page_size, _ = k_pool_PKSC.shape
        size = qkv_TE.shape[1] // (heads + 2 * kv_heads)
        qkv_TE, write_at_T = qkv_TE.contiguous(), write_at_T.contiguous()
        tokens = qkv_TE.shape[0]
        q_THC = torch.empty(tokens, heads, size, dtype=qkv_TE.dtype)
        self._library.ramify_qkv_rope(
            is_bf16(qkv_TE),
            POOLS[k_pool_PKSC.dtype],
            qkv_TE.data_ptr(),
            _pointer(q_norm_C),
            _pointer(k_norm_C),
            cos_TR.data_ptr(),
            sin_TR.data_ptr(),
            write_at_T.data_ptr(),
            q_THC.data_ptr(),
            k_pool_PKSC.data_ptr(),
            v_pool_PKSC.data_ptr(),
            eps,
            offset,
            int(interleaved),
            tokens,
            heads,
            kv_heads,
            size,
            2 * cos_TR.shape[1],
            page_size,
        )
        return q_THC

    # -- mixtures of experts -------------------------------------------------------------------------------------------

    def pack_groups(self, weight_GED: Tensor) -> Tensor:
        """One after another: all at once would be there twice."""
        first = self.pack(weight_GED[0])
        packed = torch.empty(len(weight_GED), len(first), dtype=first.dtype)
        for group, weight_ED in enumerate(weight_GED):
            packed[group] = self.pack(weight_ED)
        return packed

    def grouped_linear(
        self, x_RD: Tensor, packed: Tensor, outputs: int, bias_GE: Tensor | None, ends_G: Tensor
    ) -> Tensor:
        x_RD = x_RD.contiguous()
        offsets = torch.cat((ends_G.new_zeros(1), ends_G)).to(torch.int64)
        y_RE = torch.empty(x_RD.shape[0], outputs, dtype=x_RD.dtype)
        self._library.ramify_grouped(
            is_bf16(x_RD),
            x_RD.data_ptr(),
            packed.data_ptr(),
            _pointer(bias_GE),
            y_RE.data_ptr(),
            offsets.data_ptr(),
            packed.shape[0],
            x_RD.shape[1],
            outputs,
        )
        return y_RE

    def combine(self, y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor) -> Tensor:
        y_RD, rows_TK, weights_TK = y_RD.contiguous(), rows_TK.contiguous(), weights_TK.float().contiguous()
        tokens, chosen = rows_TK.shape
        out_TD = torch.empty(tokens, y_RD.shape[1], dtype=y_RD.dtype)
        self._library.ramify_combine(
            is_bf16(y_RD),
            y_RD.data_ptr(),
            rows_TK.data_ptr(),
            weights_TK.data_ptr(),
            tokens,
            chosen,
            y_RD.shape[1],
            out_TD.data_ptr(),
        )
        return out_TD

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

    def best(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(logits_RV)
        ones, all_of_it, greedy = torch.ones(rows), torch.full((rows,), logits_RV.shape[1]), torch.ones(rows).bool()
        return self.sample(logits_RV, ones, all_of_it, ones, torch.zeros(rows), torch.zeros(rows).double(), greedy)

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
    made, encoding, states = Compiled(library), CompiledEncoding(library), CompiledStates(library)
    return Kernels(
        rms_norm=made.rms_norm,
        add_rms_norm=made.add_rms_norm,
        gated=made.gated,
        activate=made.activate,
        softcap=made.softcap,
        route=partial(experts.route, activate=made.activate),
        combine=made.combine,
        qkv_rope_store=made.qkv_rope_store,
        sample=made.sample,
        best=made.best,
        uniform=made.uniform,
        layer_norm=encoding.layer_norm,
        add_layer_norm=encoding.add_layer_norm,
        rotate_qk=encoding.rotate_qk,
        attend_texts=encoding.attend_texts,
        angles=ANGLES,
        conv=states.conv,
        ssd=states.ssd,
        delta=states.delta,
        lora=CompiledLora(library).lora,
        packing=Packing(made.pack, made.linear, made.embed, made.pack_groups, made.grouped_linear),
        w8a8=Packing(made.pack_int8, made.linear_int8, made.embed_int8, take=take_int8),
        int4=Packing(made.pack_int4, made.linear_int4, take=take_int4),
    )
