"""The compiled kernels that encoders need, behind the signatures of `ops.kernels`. For float32 and bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.ops.cpu.record import Functions
from ramify.ops.reference import encode

ANGLES = torch.float32
WIDTH = 16  # floats in the widest register: heads have to be a multiple of it


def is_bf16(tensor: Tensor) -> int:
    return int(tensor.dtype is torch.bfloat16)


class CompiledEncoding:
    """One library, loaded."""

    def __init__(self, library: Functions) -> None:
        self._library = library

    def layer_norm(self, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float) -> Tensor:
        x_TD = x_TD.contiguous()
        y_TD = torch.empty_like(x_TD)
        self._norm(x_TD, None, weight_D, bias_D, eps, y_TD, None)
        return y_TD

    def add_layer_norm(
        self, x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        x_TD, residual_TD = x_TD.contiguous(), residual_TD.contiguous()
        y_TD, total_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        self._norm(x_TD, residual_TD, weight_D, bias_D, eps, y_TD, total_TD)
        return y_TD, total_TD

    def _norm(
        self,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        y: Tensor,
        total: Tensor | None,
    ) -> None:
        places = [None if tensor is None else tensor.data_ptr() for tensor in (x, residual, weight, bias, y, total)]
        self._library.ramify_layer_norm(is_bf16(x), *places[:4], eps, *x.shape, *places[4:])

    def rotate_qk(self, qkv_TE: Tensor, heads: int, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        assert cos_TR.dtype is sin_TR.dtype is ANGLES
        qkv_TE = qkv_TE.contiguous()
        tokens, size = qkv_TE.shape[0], qkv_TE.shape[1] // (3 * heads)
        self._library.ramify_rotate_qk(
            is_bf16(qkv_TE), qkv_TE.data_ptr(), cos_TR.data_ptr(), sin_TR.data_ptr(), tokens, heads, size
        )
        return qkv_TE

    def attend_texts(
        self, qkv_TE: Tensor, heads: int, starts_N: Tensor, counts_N: Tensor, window: int, scale: float
    ) -> Tensor:
        size = qkv_TE.shape[1] // (3 * heads)
        if size % WIDTH:
            return encode.attend_texts(qkv_TE, heads, starts_N, counts_N, window, scale)
        qkv_TE, starts, counts = qkv_TE.contiguous(), starts_N.int().contiguous(), counts_N.int().contiguous()
        out_TD = torch.empty(qkv_TE.shape[0], heads * size, dtype=qkv_TE.dtype)
        places = (tensor.data_ptr() for tensor in (qkv_TE, out_TD, starts, counts))
        self._library.ramify_texts(is_bf16(qkv_TE), *places, scale, len(starts), heads, size, window)
        return out_TD
