"""Qwen3: Llama with queries and keys normalised per head (Yang et al. 2025)."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.models.decoder import Decoder, PreNormBlock


def qwen3_attention(build: Build, config: ModelConfig, layer: int) -> Attention:
    bias = config.attention_bias
    return Attention(build, config, layer, qkv_bias=bias, out_bias=bias, qk_norm=True)


class Qwen3(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        return PreNormBlock(build, config, qwen3_attention(build, config, layer))
