"""Blocks with a norm before and one after attention and the feed-forward block, as GLM-4 and Gemma 2 have them.

x += norm(attention(norm(x)));  x += norm(mlp(norm(x)))
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import RMSNorm
from ramify.layers.rope import Angles
from ramify.models.decoder import Stream


class SandwichBlock(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, attention: nn.Module, norm_offset: float = 0.0) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(build, config.hidden, config.norm_eps, norm_offset)

        self.attention = attention
        self.mlp = GatedMLP(build, config)
        self.attention_norm, self.after_attention_norm, self.mlp_norm, self.after_mlp_norm = (norm() for _ in range(4))

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        x_TD, residual_TD = self.attention_norm.after(x_TD, residual_TD)
        x_TD = self.after_attention_norm(self.attention(x_TD, angles, batch))
        x_TD, residual_TD = self.mlp_norm.after(x_TD, residual_TD)
        return self.after_mlp_norm(self.mlp(x_TD)), residual_TD
