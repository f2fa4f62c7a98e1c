"""ModernBERT (Warner et al. 2024): norms before the blocks, rotation, gated feed-forward, windows in most layers.

x = norm(embed(tokens))
for each layer:   x += attention(norm(x));  x += mlp(norm(x))        the first layer has no norm before attention
norm(x)
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.encoder import EncoderAttention
from ramify.layers.linear import Embedding
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import LayerNorm
from ramify.layers.passages import Passages
from ramify.layers.rope import Angles, RotaryEmbedding


class Block(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.encoder is not None
        self.is_local = layer in config.encoder.local
        size, eps, bias = config.hidden, config.norm_eps, config.encoder.norm_bias
        self.attention_norm = LayerNorm(build, size, eps, bias) if layer else nn.Identity()
        self.attention = EncoderAttention(build, config, config.encoder.window if self.is_local else 0)
        self.mlp_norm = LayerNorm(build, size, eps, bias)
        self.mlp = GatedMLP(build, config)

    def forward(self, x_TD: Tensor, rotation: Angles, texts: Passages) -> Tensor:
        attended_TD = self.attention(self.attention_norm(x_TD), rotation, texts)
        normed_TD, x_TD = self.mlp_norm.after(attended_TD, x_TD)
        return x_TD + self.mlp(normed_TD)


class ModernBert(nn.Module):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        assert config.encoder is not None
        bias = config.encoder.norm_bias
        self.embedding = Embedding(build, config.vocab, config.hidden)
        self.embedding_norm = LayerNorm(build, config.hidden, config.norm_eps, bias)
        self.rope = RotaryEmbedding(build, config.head_dim, config.rope)
        local = replace(config.rope, theta=config.encoder.local_theta)
        self.local_rope = RotaryEmbedding(build, config.head_dim, local)
        self.layers = nn.ModuleList(Block(build, config, layer) for layer in range(config.layers))
        self.norm = LayerNorm(build, config.hidden, config.norm_eps, bias)

    def forward(self, texts: Passages) -> Tensor:
        """Hidden states [T, D], after the last norm."""
        rotation, local = self.rope(texts.positions_T), self.local_rope(texts.positions_T)
        x_TD = self.embedding_norm(self.embedding(texts.tokens_T))
        for layer in self.layers:
            x_TD = layer(x_TD, local if layer.is_local else rotation, texts)
        return self.norm(x_TD)
