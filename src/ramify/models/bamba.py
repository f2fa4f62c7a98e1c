"""Bamba: Llama where most layers are those of Mamba 2 (IBM, Princeton, CMU and UIUC 2024)."""

from __future__ import annotations

from torch import nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.state import Mamba2
from ramify.models.decoder import Decoder, PreNormBlock, plain_attention


def hybrid_mixer(build: Build, config: ModelConfig, layer: int) -> Mamba2:
    bias, conv_bias = config.numbers["mamba_proj_bias"], config.numbers["mamba_conv_bias"]
    return Mamba2(build, config, layer, bias=bias, conv_bias=conv_bias)


class Bamba(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        mixer: nn.Module = (hybrid_mixer if config.is_recurrent(layer) else plain_attention)(build, config, layer)
        return PreNormBlock(build, config, mixer)
