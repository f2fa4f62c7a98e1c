"""Attention of encoders, in both directions."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.passages import Passages
from ramify.layers.rope import Angles


class EncoderAttention(nn.Module):
    """q, k and v in one projection, rotated where the model rotates, attended within each text, projected back."""

    def __init__(self, build: Build, config: ModelConfig, window: int = 0) -> None:
        super().__init__()
        self._kernels, self._heads, self._window = build.kernels, config.heads, window
        self._scale = config.head_dim**-0.5
        parts = dict.fromkeys("qkv", config.hidden)
        self.qkv = Linear(build, config.hidden, parts, bias=config.attention_bias)
        self.out = Linear(build, config.hidden, config.hidden, bias=config.attention_bias)

    def forward(self, x_TD: Tensor, rotation: Angles | None, texts: Passages) -> Tensor:
        qkv_TE = self.qkv(x_TD)
        if rotation is not None:
            qkv_TE = self._kernels.rotate_qk(qkv_TE, self._heads, *rotation)
        attended_TD = self._kernels.attend_texts(
            qkv_TE, self._heads, texts.starts_N, texts.counts_N, self._window, self._scale
        )
        return self.out(attended_TD)
