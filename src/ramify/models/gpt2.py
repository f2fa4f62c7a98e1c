"""GPT-2: learned positions, layer norms, no gates (Radford et al. 2019).

x = embed(tokens) + positions
x += attention(norm(x));  x += mlp(norm(x))
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import Embedding
from ramify.layers.mlp import MLP
from ramify.layers.norm import LayerNorm
from ramify.layers.rope import Angles
from ramify.models.decoder import Decoder, Stream


def attention_scale(config: ModelConfig, layer: int) -> float:
    scale = config.head_dim**-0.5 if config.numbers["scale_attn_weights"] else 1.0
    return scale / (layer + 1) if config.numbers["scale_attn_by_inverse_layer_idx"] else scale


class GPT2Block(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        scale = attention_scale(config, layer)
        self.attention = Attention(build, config, layer, qkv_bias=True, out_bias=True, scale=scale)
        self.mlp = MLP(build, config)
        self.attention_norm = LayerNorm(build, config.hidden, config.norm_eps)
        self.mlp_norm = LayerNorm(build, config.hidden, config.norm_eps)

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        x_TD, residual_TD = self.attention_norm.after(x_TD, residual_TD)
        x_TD, residual_TD = self.mlp_norm.after(self.attention(x_TD, angles, batch), residual_TD)
        return self.mlp(x_TD), residual_TD


class GPT2(Decoder):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config)
        self.positions = Embedding(build, config.context, config.hidden)

    def block(self, build: Build, config: ModelConfig, layer: int) -> GPT2Block:
        return GPT2Block(build, config, layer)

    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return None

    def last_norm(self, build: Build, config: ModelConfig) -> LayerNorm:
        return LayerNorm(build, config.hidden, config.norm_eps)

    def embed(self, batch: Batch) -> Tensor:
        return super().embed(batch) + self.positions(batch.positions_T)
