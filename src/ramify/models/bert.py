"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020), and nomic-bert, which rotates.

x = norm(words + positions + types)
for each layer:   x = norm(x + attention(x));  x = norm(x + mlp(x))
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.encoder import EncoderAttention
from ramify.layers.linear import Embedding
from ramify.layers.mlp import MLP, GatedMLP
from ramify.layers.norm import LayerNorm
from ramify.layers.passages import Passages
from ramify.layers.rope import Angles, RotaryEmbedding


class Block(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = EncoderAttention(build, config)
        self.attention_norm = LayerNorm(build, config.hidden, config.norm_eps)
        self.mlp = mlp
        self.mlp_norm = LayerNorm(build, config.hidden, config.norm_eps)

    def forward(self, x_TD: Tensor, rotation: Angles | None, texts: Passages) -> Tensor:
        x_TD, _ = self.attention_norm.after(self.attention(x_TD, rotation, texts), x_TD)
        return self.mlp_norm.after(self.mlp(x_TD), x_TD)[0]


class Bert(nn.Module):
    """Positions come from a table; RoBERTa's begin behind the id of padding."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        assert config.encoder is not None
        self._first = config.encoder.first
        rows = {"word": config.vocab, "position": config.encoder.positions, "token_type": config.encoder.types}
        self.tables = nn.ModuleDict({name: Embedding(build, n, config.hidden) for name, n in rows.items() if n})
        self._types = config.encoder.types
        self.norm = LayerNorm(build, config.hidden, config.norm_eps)
        self.layers = nn.ModuleList(Block(build, config, self.mlp(build, config)) for _ in range(config.layers))

    def mlp(self, build: Build, config: ModelConfig) -> nn.Module:
        return MLP(build, config)

    def rotation(self, texts: Passages) -> Angles | None:
        return None

    def forward(self, texts: Passages) -> Tensor:
        """Hidden states [T, D]."""
        x_TD = self.tables["word"](texts.tokens_T)
        if "token_type" in self.tables:
            x_TD = x_TD + self.tables["token_type"](texts.types_T.clamp_max(self._types - 1))
        if "position" in self.tables:
            x_TD = x_TD + self.tables["position"](texts.positions_T + self._first)
        x_TD = self.norm(x_TD)
        rotation = self.rotation(texts)
        for layer in self.layers:
            x_TD = layer(x_TD, rotation, texts)
        return x_TD


class NomicBert(Bert):
    """With rotated queries and keys, and a gated feed-forward block (Nussbaum et al. 2024)."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config)
        self.rope = RotaryEmbedding(build, config.head_dim, config.rope)

    def mlp(self, build: Build, config: ModelConfig) -> nn.Module:
        return GatedMLP(build, config)

    def rotation(self, texts: Passages) -> Angles:
        return self.rope(texts.positions_T)
