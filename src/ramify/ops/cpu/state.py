"""The compiled kernels of layers that keep a state. For float32 and bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.ops.cpu.encoding import is_bf16
from ramify.ops.cpu.record import Functions
from ramify.ops.reference import state
from ramify.ops.states import Spans, dense_rows

MOST_WIDTH = 16  # of a convolution, as in csrc/api.h


class CompiledStates:
    """One library, loaded."""

    def __init__(self, library: Functions) -> None:
        self._library = library

    def conv(self, x_TE: Tensor, weight_WE: Tensor, bias_E: Tensor | None, pool_PWE: Tensor, spans: Spans) -> Tensor:
        width, channels = weight_WE.shape
        if width > MOST_WIDTH:
            return state.conv(x_TE, weight_WE, bias_E, pool_PWE, spans)
        x_TE = dense_rows(x_TE)
        y_TE = torch.empty(x_TE.shape, dtype=x_TE.dtype)
        self._library.ramify_conv(
            is_bf16(x_TE),
            x_TE.data_ptr(),
            weight_WE.data_ptr(),
            None if bias_E is None else bias_E.data_ptr(),
            y_TE.data_ptr(),
            pool_PWE.data_ptr(),
            *(tensor.data_ptr() for tensor in spans.tensors),
            len(spans.starts_N),
            x_TE.stride(0),
            channels,
            width,
        )
        return y_TE

    def ssd(
        self,
        xbc_TE: Tensor,
        dt_TH: Tensor,
        decay_H: Tensor,
        bias_H: Tensor,
        skip_H: Tensor,
        limits: tuple[float, float],
        groups: int,
        pool_PHVB: Tensor,
        spans: Spans,
    ) -> Tensor:
        heads, value, key = pool_PHVB.shape[1:]
        xbc_TE, dt_TH = xbc_TE.contiguous(), dense_rows(dt_TH)
        y_TE = torch.empty(len(xbc_TE), heads * value)
        self._library.ramify_ssd(
            is_bf16(xbc_TE),
            *(tensor.data_ptr() for tensor in (xbc_TE, dt_TH, decay_H, bias_H, skip_H, y_TE, pool_PHVB)),
            *(tensor.data_ptr() for tensor in spans.tensors),
            len(spans.starts_N),
            *limits,
            dt_TH.stride(0),
            heads,
            groups,
            value,
            key,
        )
        return y_TE

    def delta(
        self,
        qkv_TE: Tensor,
        a_TH: Tensor,
        b_TH: Tensor,
        decay_H: Tensor,
        bias_H: Tensor,
        groups: int,
        pool_PHBV: Tensor,
        spans: Spans,
    ) -> Tensor:
        heads, key, value = pool_PHBV.shape[1:]
        qkv_TE, a_TH, b_TH = qkv_TE.contiguous(), dense_rows(a_TH), dense_rows(b_TH)
        y_TE = torch.empty(len(qkv_TE), heads * value)
        self._library.ramify_delta(
            is_bf16(qkv_TE),
            *(tensor.data_ptr() for tensor in (qkv_TE, a_TH, b_TH, decay_H, bias_H, y_TE, pool_PHBV)),
            *(tensor.data_ptr() for tensor in spans.tensors),
            len(spans.starts_N),
            a_TH.stride(0),
            b_TH.stride(0),
            heads,
            groups,
            value,
            key,
        )
        return y_TE
