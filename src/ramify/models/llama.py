"""Llama 2, 3, 3.1 to 3.3, and Mistral, which is the same decoder (Touvron et al. 2023, Jiang et al. 2023).

    x = embed(tokens)
    for each layer:   x += attention(norm(x));  x += mlp(norm(x))
    logits = head(norm(x))

The residual is carried beside the normed stream, so that adding and normalising is one op.
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import Embedding, Linear
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import RMSNorm
from ramify.layers.rope import RotaryEmbedding


class Block(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = GatedMLP(build, config)
        self.attention_norm = RMSNorm(build, config.hidden, config.norm_eps)
        self.mlp_norm = RMSNorm(build, config.hidden, config.norm_eps)

    def forward(
        self, x_TD: Tensor, residual_TD: Tensor | None, cos_TR: Tensor, sin_TR: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """(what this block adds, the residual to add it to); the first block has no residual yet."""
        if residual_TD is None:
            x_TD, residual_TD = self.attention_norm(x_TD), x_TD
        else:
            x_TD, residual_TD = self.attention_norm.after(x_TD, residual_TD)
        x_TD = self.attention(x_TD, cos_TR, sin_TR, batch)
        x_TD, residual_TD = self.mlp_norm.after(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD


class Llama(nn.Module):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = Embedding(build, config.vocab, config.hidden)
        self.rope = RotaryEmbedding(build, config.head_dim, config.rope)
        blocks = (Block(build, config, self.attention(build, config, layer)) for layer in range(config.layers))
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(build, config.hidden, config.norm_eps)
        self.head = None if config.tied else Linear(build.of_vocabulary, config.hidden, config.vocab)

    def attention(self, build: Build, config: ModelConfig, layer: int) -> Attention:
        return Attention(build, config, layer, qkv_bias=config.attention_bias, out_bias=config.attention_bias)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states [T, D] of a step, after the last norm."""
        cos_TR, sin_TR = self.rope(batch.positions_T)
        x_TD = batch.inputs(self.embedding(batch.tokens_T))
        residual_TD: Tensor | None = None
        for layer in self.layers:
            x_TD, residual_TD = layer(x_TD, residual_TD, cos_TR, sin_TR, batch)
        assert residual_TD is not None, "a model has at least one layer"
        return self.norm.after(x_TD, residual_TD)[0]

    def logits(self, x_TD: Tensor) -> Tensor:
        """Logits [T, V] of chosen hidden states."""
        return self.embedding.head(x_TD) if self.head is None else self.head(x_TD)
