"""GLM-4.5: routed experts beside a shared one, chosen as in DeepSeek V3 (Zeng et al. 2025)."""

from __future__ import annotations

from torch import nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.layers.mlp import GatedMLP
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.models.deepseek import CorrectedMLP


class Glm4Moe(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        qk_norm = config.numbers["use_qk_norm"]
        attention = Attention(build, config, layer, qkv_bias=config.attention_bias, qk_norm=qk_norm)
        mlp: nn.Module = CorrectedMLP(build, config) if config.is_sparse(layer) else GatedMLP(build, config)
        return PreNormBlock(build, config, attention, mlp)
