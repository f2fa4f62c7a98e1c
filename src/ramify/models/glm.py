"""GLM-4: half of each head is rotated, in interleaved pairs (Zeng et al. 2024).

The models of 2025 have norms after each part as well.
"""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.models.sandwich import SandwichBlock


def glm_attention(build: Build, config: ModelConfig, layer: int) -> Attention:
    return Attention(build, config, layer, qkv_bias=config.attention_bias, interleaved=True)


class Glm(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        return PreNormBlock(build, config, glm_attention(build, config, layer))


class Glm4(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> SandwichBlock:
        return SandwichBlock(build, config, glm_attention(build, config, layer))
