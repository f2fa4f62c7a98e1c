"""OLMo 2 and 3: norms after attention and after the feed-forward block, and over all queries and all keys (OLMo 2024).

    x += norm(attention(x));  x += norm(mlp(x))

In OLMo 3 three layers of four have a window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import RMSNorm, plus
from ramify.layers.rope import Angles
from ramify.models.decoder import Decoder, Stream


class Olmo2Attention(Attention):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__(build, config, layer, qkv_bias=config.attention_bias, out_bias=config.attention_bias)
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self._sizes = [q, kv, kv]
        self.q_all_norm = RMSNorm(build, q, config.norm_eps)
        self.k_all_norm = RMSNorm(build, kv, config.norm_eps)

    def project(self, x_TD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_TD).split(self._sizes, dim=-1)
        return torch.cat((self.q_all_norm(q), self.k_all_norm(k), v), dim=-1)


class Olmo2Block(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Olmo2Attention(build, config, layer)
        self.mlp = GatedMLP(build, config)
        self.attention_norm = RMSNorm(build, config.hidden, config.norm_eps)
        self.mlp_norm = RMSNorm(build, config.hidden, config.norm_eps)

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        x_TD = plus(x_TD, residual_TD)
        x_TD = x_TD + self.attention_norm(self.attention(x_TD, angles, batch))
        return self.mlp_norm(self.mlp(x_TD)), x_TD


class Olmo2(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> Olmo2Block:
        return Olmo2Block(build, config, layer)
