"""DeepSeek V2, V3 and R1: latent attention, routed experts beside shared ones (DeepSeek-AI 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.latent import LatentAttention
from ramify.layers.linear import WHOLE
from ramify.layers.loadable import Loadable
from ramify.layers.mlp import GatedMLP
from ramify.layers.moe import SparseMLP
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.ops.routing import Routing


class SharedMLP(SparseMLP):
    """experts(x) + shared(x)"""

    def __init__(self, build: Build, config: ModelConfig, routing: Routing) -> None:
        super().__init__(build, config, routing)
        assert config.experts is not None
        self.shared = GatedMLP(build, config, config.experts.shared)

    def forward(self, x_TD: Tensor) -> Tensor:
        return super().forward(x_TD) + self.shared(x_TD)


def limited_softmax(config: ModelConfig) -> Routing:
    """DeepSeek V2: the most probable experts, where asked of the groups with the best ones."""
    assert config.experts is not None
    numbers = config.numbers
    limited = numbers["topk_method"] == "group_limited_greedy"
    groups, best = (numbers["n_group"], numbers["topk_group"]) if limited else (1, 1)
    scale = numbers["routed_scaling_factor"]
    return Routing(config.experts.chosen, groups=groups, best_groups=best, scale=scale)


def corrected_sigmoid(config: ModelConfig) -> Routing:
    """DeepSeek V3: each expert is scored by itself, and those of the groups with the best pairs are chosen."""
    assert config.experts is not None
    numbers = config.numbers
    return Routing(
        config.experts.chosen,
        score="sigmoid",
        after="sum" if numbers["norm_topk_prob"] else "nothing",
        groups=numbers["n_group"],
        best_groups=numbers["topk_group"],
        pooled=2,
        scale=numbers["routed_scaling_factor"],
    )


class Correction(Loadable):
    """A number per expert, in fp32."""

    weight: Tensor

    def __init__(self, build: Build, experts: int) -> None:
        super().__init__()
        self.declare("weight", (experts,), {WHOLE: experts}, torch.float32, build.device)


class CorrectedMLP(SharedMLP):
    """DeepSeek V3: a correction balances who is chosen but not what counts."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config, corrected_sigmoid(config))
        assert config.experts is not None
        self.correction = Correction(build, config.experts.count)

    @property
    def correction_G(self) -> Tensor:
        return self.correction.weight


class DeepseekV2(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        mlp = self.sparse(build, config) if config.is_sparse(layer) else GatedMLP(build, config)
        return PreNormBlock(build, config, LatentAttention(build, config, layer), mlp)

    def sparse(self, build: Build, config: ModelConfig) -> nn.Module:
        return SharedMLP(build, config, limited_softmax(config))


class DeepseekV3(DeepseekV2):
    def sparse(self, build: Build, config: ModelConfig) -> nn.Module:
        return CorrectedMLP(build, config)
