"""Mamba 2: a state space and nothing else (Dao and Gu 2024).

x += mixer(norm(x))
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers import state
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.norm import RMSNorm
from ramify.layers.rope import Angles
from ramify.models.decoder import Decoder, Stream


class Mamba2Block(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        bias, conv_bias = config.numbers["use_bias"], config.numbers["use_conv_bias"]
        self.mixer = state.Mamba2(build, config, layer, bias=bias, conv_bias=conv_bias)
        self.norm = RMSNorm(build, config.hidden, config.norm_eps)

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        x_TD, residual_TD = self.norm.after(x_TD, residual_TD)
        return self.mixer(x_TD, angles, batch), residual_TD


class Mamba2(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> Mamba2Block:
        return Mamba2Block(build, config, layer)

    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return None
