"""DeepSeek V2, V3 and R1: latent attention, routed experts beside shared ones (DeepSeek-AI 2024)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.latent import LatentAttention
from ramify.layers.linear import WHOLE
from ramify.layers.loadable import Loadable
from ramify.layers.mlp import GatedMLP
from ramify.layers.moe import Choice, SparseMLP, among_groups, normalised
from ramify.models.decoder import Decoder, PreNormBlock


class SharedMLP(SparseMLP):
    """experts(x) + shared(x)"""

    def __init__(self, build: Build, config: ModelConfig, choose: Choice) -> None:
        super().__init__(build, config, choose)
        assert config.experts is not None
        self.shared = GatedMLP(build, config, config.experts.shared)

    def forward(self, x_TD: Tensor) -> Tensor:
        return super().forward(x_TD) + self.shared(x_TD)


def limited_softmax(logits_TG: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """DeepSeek V2: the most probable experts, where asked of the groups with the best ones."""
    assert config.experts is not None
    numbers, scores_TG = config.numbers, logits_TG.softmax(-1)
    if numbers["topk_method"] == "group_limited_greedy":
        best_TN = scores_TG.unflatten(1, (numbers["n_group"], -1)).amax(-1)
        scores_TG = among_groups(scores_TG, best_TN, numbers["topk_group"])
    weights_TK, chosen_TK = scores_TG.topk(config.experts.chosen, dim=-1)
    return weights_TK * numbers["routed_scaling_factor"], chosen_TK


class Correction(Loadable):
    """A number per expert, in fp32."""

    weight: Tensor

    def __init__(self, build: Build, experts: int) -> None:
        super().__init__()
        self.declare("weight", (experts,), {WHOLE: experts}, torch.float32, build.device)


class CorrectedMLP(SharedMLP):
    """DeepSeek V3: each expert is scored by itself, and a correction balances who is chosen but not what counts."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config, self.choose)
        assert config.experts is not None
        self._kernels, self._numbers, self._chosen = build.kernels, config.numbers, config.experts.chosen
        self.correction = Correction(build, config.experts.count)

    def choose(self, logits_TG: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self._numbers
        scores_TG = self._kernels.activate(logits_TG, "sigmoid")
        corrected_TG = scores_TG + self.correction.weight
        best_TN2 = corrected_TG.unflatten(1, (numbers["n_group"], -1)).topk(2, dim=-1).values
        among_TG = among_groups(corrected_TG, best_TN2[..., 0] + best_TN2[..., 1], numbers["topk_group"])
        chosen_TK = among_TG.topk(self._chosen, dim=-1).indices
        weights_TK = scores_TG.gather(1, chosen_TK)
        if numbers["norm_topk_prob"]:
            weights_TK = normalised(weights_TK)
        return weights_TK * numbers["routed_scaling_factor"], chosen_TK


class DeepseekV2(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        mlp = self.sparse(build, config) if config.is_sparse(layer) else GatedMLP(build, config)
        return PreNormBlock(build, config, LatentAttention(build, config, layer), mlp)

    def sparse(self, build: Build, config: ModelConfig) -> nn.Module:
        return SharedMLP(build, config, partial(limited_softmax, config=config))


class DeepseekV3(DeepseekV2):
    def sparse(self, build: Build, config: ModelConfig) -> nn.Module:
        return CorrectedMLP(build, config)
