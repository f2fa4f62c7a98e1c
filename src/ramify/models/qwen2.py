"""Qwen2 and Qwen2.5: Llama with biases on q, k and v (Yang et al. 2024)."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.models.decoder import Decoder, PreNormBlock


class Qwen2(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        return PreNormBlock(build, config, Attention(build, config, layer, qkv_bias=True))
