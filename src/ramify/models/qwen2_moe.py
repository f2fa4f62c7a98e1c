"""Qwen1.5-MoE and Qwen2-MoE: routed experts, and a shared one behind a gate (Yang et al. 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.mlp import GatedMLP
from ramify.layers.moe import SparseMLP
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.ops.routing import Routing


class GatedSharedMLP(SparseMLP):
    """experts(x) + sigmoid(gate(x)) * shared(x)"""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config, routing(config))
        assert config.experts is not None
        self._kernels = build.kernels
        self.shared = GatedMLP(build, config, config.experts.shared)
        self.shared_gate = Linear(build, config.hidden, 1)

    def forward(self, x_TD: Tensor) -> Tensor:
        share_T1 = self._kernels.activate(self.shared_gate(x_TD), "sigmoid")
        return super().forward(x_TD) + share_T1 * self.shared(x_TD)


def routing(config: ModelConfig) -> Routing:
    assert config.experts is not None
    return Routing(config.experts.chosen, after="sum" if config.numbers["norm_topk_prob"] else "nothing")


class Qwen2Moe(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        attention = Attention(build, config, layer, qkv_bias=config.raw.get("qkv_bias", True))
        mlp: nn.Module = GatedSharedMLP(build, config) if config.is_sparse(layer) else GatedMLP(build, config)
        return PreNormBlock(build, config, attention, mlp)
