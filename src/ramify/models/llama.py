"""Llama 2, 3, 3.1 to 3.3, and Mistral, whose attention may have a window (Touvron et al. 2023, Jiang et al. 2023)."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.models.decoder import Decoder, PreNormBlock, plain_attention


class Llama(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        return PreNormBlock(build, config, plain_attention(build, config, layer))
