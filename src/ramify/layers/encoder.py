"""Layers of encoders: layer norm, attention in both directions, and the feed-forward blocks they have."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.linear import WHOLE, Linear
from ramify.layers.loadable import Loadable
from ramify.layers.passages import Passages
from ramify.ops.kernels import Kernels

Rotation = tuple[Tensor, Tensor]


def activation_of(name: str, kernels: Kernels) -> Callable[[Tensor], Tensor]:
    """By transformers' name."""
    return {
        "gelu": kernels.gelu,
        "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
        "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
    }[name]


class LayerNorm(Loadable):
    weight: Tensor
    bias: Tensor

    def __init__(self, build: Build, size: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self._kernels, self.eps = build.kernels, eps
        self.declare("weight", (size,), {WHOLE: size}, build.dtype, build.device)
        if bias:
            self.declare("bias", (size,), {WHOLE: size}, build.dtype, build.device)
        self._has_bias = bias

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._kernels.layer_norm(x_TD, self.weight, self._bias, self.eps)

    def after(self, x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Add `x` to the residual and normalise the sum: (normed, the sum)."""
        return self._kernels.add_layer_norm(x_TD, residual_TD, self.weight, self._bias, self.eps)

    @property
    def _bias(self) -> Tensor | None:
        return self.bias if self._has_bias else None


class EncoderAttention(nn.Module):
    """q, k and v in one projection, rotated where the model rotates, attended within each text, projected back."""

    def __init__(self, build: Build, config: ModelConfig, window: int = 0) -> None:
        super().__init__()
        self._kernels, self._heads, self._window = build.kernels, config.heads, window
        self._scale = config.head_dim**-0.5
        parts = dict.fromkeys("qkv", config.hidden)
        self.qkv = Linear(build, config.hidden, parts, bias=config.attention_bias)
        self.out = Linear(build, config.hidden, config.hidden, bias=config.attention_bias)

    def forward(self, x_TD: Tensor, rotation: Rotation | None, texts: Passages) -> Tensor:
        qkv_TE = self.qkv(x_TD)
        if rotation is not None:
            qkv_TE = self._kernels.rotate_qk(qkv_TE, self._heads, *rotation)
        attended_TD = self._kernels.attend_texts(
            qkv_TE, self._heads, texts.starts_N, texts.counts_N, self._window, self._scale
        )
        return self.out(attended_TD)


class MLP(nn.Module):
    """down(activation(up(x)))"""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        self._activation = activation_of(config.activation, build.kernels)
        self.up = Linear(build, config.hidden, config.mlp, bias=config.mlp_bias)
        self.down = Linear(build, config.mlp, config.hidden, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(self._activation(self.up(x_TD)))


class GatedEncoderMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one projection (Shazeer 2020)."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        plain = activation_of(config.activation, build.kernels)
        fused = {"gelu": build.kernels.gelu_mul, "silu": build.kernels.silu_mul}
        self._gated = fused.get(config.activation, lambda x: _gated(plain, x))
        self.gate_up = Linear(build, config.hidden, {"gate": config.mlp, "up": config.mlp}, bias=config.mlp_bias)
        self.down = Linear(build, config.mlp, config.hidden, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(self._gated(self.gate_up(x_TD)))


def _gated(activation: Callable[[Tensor], Tensor], gate_up_TE: Tensor) -> Tensor:
    gate, up = gate_up_TE.chunk(2, dim=-1)
    return activation(gate) * up
