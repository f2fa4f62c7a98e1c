"""What decoders have in common: tokens in, blocks, logits out.

    x = embed(tokens)
    for each layer:   x = block(x)
    logits = head(norm(x))

The residual is carried beside the stream, so that adding and normalising is one op: a block takes what the one before
adds and the residual to add it to, and returns the same two.
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import Embedding, Linear, TiedHead
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import LayerNorm, RMSNorm
from ramify.layers.rope import Angles, NoRotation, RotaryEmbedding

Stream = tuple[Tensor, Tensor | None]


class PreNormBlock(nn.Module):
    """x += attention(norm(x));  x += mlp(norm(x))"""

    def __init__(
        self,
        build: Build,
        config: ModelConfig,
        attention: nn.Module,
        mlp: nn.Module | None = None,
        norm_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp or GatedMLP(build, config)
        self.attention_norm = RMSNorm(build, config.hidden, config.norm_eps, norm_offset)
        self.mlp_norm = RMSNorm(build, config.hidden, config.norm_eps, norm_offset)

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        """(what this block adds, the residual to add it to); the first block has no residual yet."""
        x_TD, residual_TD = self.attention_norm.after(x_TD, residual_TD)
        x_TD = self.attention(x_TD, angles, batch)
        x_TD, residual_TD = self.mlp_norm.after(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD


class Decoder(nn.Module):
    """A family says what its blocks are, and where it differs from this, how."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = Embedding(build, config.vocab, config.hidden)
        self.rotations = nn.ModuleDict()
        self._turns = [self._rotation(build, config, layer) for layer in range(config.layers)]
        self.layers = nn.ModuleList(self.block(build, config, layer) for layer in range(config.layers))
        self.norm = self.last_norm(build, config)
        outputs = build.of_vocabulary, config.hidden, config.vocab
        self.head = TiedHead(self.embedding) if config.tied else Linear(*outputs)

    def block(self, build: Build, config: ModelConfig, layer: int) -> nn.Module:
        raise NotImplementedError

    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        """How a layer turns queries and keys; None: not at all."""
        return config.rope_of(layer)

    def last_norm(self, build: Build, config: ModelConfig) -> RMSNorm | LayerNorm:
        return RMSNorm(build, config.hidden, config.norm_eps)

    def _rotation(self, build: Build, config: ModelConfig, layer: int) -> str:
        """The name of a layer's rotation. Layers that turn alike share one."""
        rope = self.rope(config, layer)
        name = "none" if rope is None else "local" if rope is not config.rope else "full"
        if name not in self.rotations:
            size = config.head_dim if config.latent is None else config.latent.rotated
            self.rotations[name] = NoRotation(build) if rope is None else RotaryEmbedding(build, size, rope)
        return name

    def embed(self, batch: Batch) -> Tensor:
        """What the first block reads."""
        return batch.inputs(self.embedding(batch.tokens_T))

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states [T, D] of a step, after the last norm."""
        angles = {name: rotation(batch.positions_T) for name, rotation in self.rotations.items()}
        x_TD, residual_TD = self.embed(batch), None
        for layer, turn in zip(self.layers, self._turns, strict=True):
            x_TD, residual_TD = layer(x_TD, residual_TD, angles[turn], batch)
        return self.norm.after(x_TD, residual_TD)[0]

    def logits(self, x_TD: Tensor) -> Tensor:
        """Logits [T, V] of chosen hidden states."""
        return self.head(x_TD)


def plain_attention(build: Build, config: ModelConfig, layer: int) -> Attention:
    """With biases where the configuration says so."""
    return Attention(build, config, layer, qkv_bias=config.attention_bias, out_bias=config.attention_bias)
