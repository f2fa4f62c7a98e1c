"""Mixtral: Mistral with experts (Jiang et al. 2024)."""

from __future__ import annotations

from functools import partial

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.layers.moe import SparseMLP, softmax_then_choose
from ramify.models.decoder import Decoder, PreNormBlock


class Mixtral(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        assert config.experts is not None
        choose = partial(softmax_then_choose, chosen=config.experts.chosen, normalise=True)
        return PreNormBlock(build, config, Attention(build, config, layer), SparseMLP(build, config, choose))
