"""Phi-3, Phi-3.5 and Phi-4: Llama with fused projections, and in part with rotation of a part of each head and LongRoPE
(Abdin et al. 2024).

Which of LongRoPE's factors count depends on the context that is served: see `layers.rope`.
"""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.models.decoder import Decoder, PreNormBlock


class Phi3(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        return PreNormBlock(build, config, Attention(build, config, layer))
