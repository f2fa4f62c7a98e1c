"""Qwen3-MoE: Qwen3 with routed experts and no shared one (Yang et al. 2025)."""

from __future__ import annotations

from torch import nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.mlp import GatedMLP
from ramify.layers.moe import SparseMLP
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.models.qwen2_moe import routing
from ramify.models.qwen3 import qwen3_attention


class Qwen3Moe(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        sparse = config.is_sparse(layer)
        mlp: nn.Module = SparseMLP(build, config, routing(config)) if sparse else GatedMLP(build, config)
        return PreNormBlock(build, config, qwen3_attention(build, config, layer), mlp)
