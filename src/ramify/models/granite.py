"""Granite 3: Llama with four multipliers, of embeddings, of scores, of what is added, of logits (IBM 2024); and with
experts. Granite 4: the same where most layers are those of Mamba 2 and experts stand beside a shared one (IBM 2025).
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.mlp import GatedMLP
from ramify.layers.moe import SparseMLP
from ramify.layers.rope import Angles
from ramify.models.bamba import hybrid_mixer
from ramify.models.decoder import Decoder, PreNormBlock, Stream
from ramify.ops.routing import Routing


class GraniteBlock(PreNormBlock):
    """x += m attention(norm(x));  x += m mlp(norm(x))"""

    def __init__(self, build: Build, config: ModelConfig, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__(build, config, attention, mlp)
        self._multiplier = config.numbers["residual_multiplier"]

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        x_TD, residual_TD = self.attention_norm.after(x_TD, residual_TD)
        x_TD = self.attention(x_TD, angles, batch) * self._multiplier
        x_TD, residual_TD = self.mlp_norm.after(x_TD, residual_TD)
        return self.mlp(x_TD) * self._multiplier, residual_TD


class Granite(Decoder):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config)
        self._embedded, self._scaling = config.numbers["embedding_multiplier"], config.numbers["logits_scaling"]

    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        return GraniteBlock(build, config, self.attention(build, config, layer), self.mlp(build, config))

    def attention(self, build: Build, config: ModelConfig, layer: int) -> nn.Module:
        scale, bias = config.numbers["attention_multiplier"], config.attention_bias
        return Attention(build, config, layer, qkv_bias=bias, out_bias=bias, scale=scale)

    def mlp(self, build: Build, config: ModelConfig) -> nn.Module:
        return GatedMLP(build, config)

    def embed(self, batch: Batch) -> Tensor:
        return super().embed(batch) * self._embedded

    def logits(self, x_TD: Tensor) -> Tensor:
        return super().logits(x_TD) / self._scaling


def routing(config: ModelConfig) -> Routing:
    """What the best count is their share in a softmax among them."""
    assert config.experts is not None
    return Routing(config.experts.chosen, score="logit", after="softmax")


class GraniteMoe(Granite):
    def mlp(self, build: Build, config: ModelConfig) -> nn.Module:
        return SparseMLP(build, config, routing(config))


class GraniteSharedMoe(SparseMLP):
    """experts(x) + shared(x)"""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        assert config.experts is not None
        super().__init__(build, config, routing(config))
        self.shared = GatedMLP(build, config, config.experts.shared)

    def forward(self, x_TD: Tensor) -> Tensor:
        return super().forward(x_TD) + self.shared(x_TD)


class GraniteHybrid(Granite):
    def attention(self, build: Build, config: ModelConfig, layer: int) -> nn.Module:
        if not config.is_recurrent(layer):
            return super().attention(build, config, layer)
        return hybrid_mixer(build, config, layer)

    def mlp(self, build: Build, config: ModelConfig) -> nn.Module:
        return GatedMLP(build, config) if config.experts is None else GraniteSharedMoe(build, config)

    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return config.rope if config.numbers["position_embedding_type"] == "rope" else None
