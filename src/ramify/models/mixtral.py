"""Mixtral: Mistral with experts (Jiang et al. 2024)."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.layers.moe import SparseMLP
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.ops.routing import Routing


class Mixtral(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        assert config.experts is not None
        routing = Routing(config.experts.chosen, after="sum")
        return PreNormBlock(build, config, Attention(build, config, layer), SparseMLP(build, config, routing))
