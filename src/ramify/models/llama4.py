"""Llama 4, text: chunks of attention, layers that do not rotate, experts whose inputs are weighted (Meta 2025).

Layers that rotate see the keys of their own chunk; those that do not see everything, and their queries grow with the
position: more keys would flatten the softmax (Nakanishi 2025). A routed expert computes the token times its score.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.mlp import GatedMLP
from ramify.layers.moe import Experts, Router
from ramify.layers.norm import UnweightedNorm
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.models.smollm3 import rotates
from ramify.ops.routing import Routing


class Llama4Attention(Attention):
    """Queries and keys are normalised without weights. The reference does so after it has rotated them, and rotation
    leaves their lengths as they are.
    """

    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        bias, numbers, turns = config.attention_bias, config.numbers, rotates(config)[layer]
        super().__init__(build, config, layer, qkv_bias=bias, out_bias=bias, interleaved=True)
        if numbers["use_qk_norm"] and turns:
            self.q_norm = self.k_norm = UnweightedNorm(build, config.head_dim)
        self._every = int(numbers["floor_scale"])
        tempered = numbers["attn_temperature_tuning"] and not turns
        self._factors = temperatures(build, self._every, numbers["attn_scale"]) if tempered else None

    def queries(self, q_THC: Tensor, batch: Batch) -> Tensor:
        if self._factors is None:
            return q_THC
        factors_T = self._factors[(batch.positions_T + 1) // self._every]
        return (q_THC * factors_T[:, None, None]).to(q_THC.dtype)


def temperatures(build: Build, every: int, scale: float) -> Tensor:
    """What queries are multiplied by in each run of `every` positions of the context that is served. Looked up, because
    a logarithm's bits may depend on what is computed beside it.
    """
    runs = torch.arange(build.context // every + 1, dtype=torch.float32, device=build.device)
    return runs.log1p() * scale + 1.0


class Llama4MLP(nn.Module):
    """shared(x) + sum over the chosen experts of expert(score * x)"""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        assert config.experts is not None
        self._route, self._chosen = build.kernels.route, config.experts.chosen
        self.router = Router(build, config)
        self.experts = Experts(build, config)
        self.shared = GatedMLP(build, config, config.experts.shared)

    def forward(self, x_TD: Tensor) -> Tensor:
        routing = Routing(self._chosen, score="logit", after="sigmoid")
        scores_TK, chosen_TK = self._route(self.router(x_TD), None, routing)
        added_TD = self.shared(x_TD)
        for k in range(self._chosen):  # one, in the models that there are
            scored_TD = (x_TD * scores_TK[:, k : k + 1]).to(x_TD.dtype)
            whole_T1 = torch.ones_like(scores_TK[:, :1])
            added_TD = added_TD + self.experts(scored_TD, whole_T1, chosen_TK[:, k : k + 1])
        return added_TD


class Llama4(Decoder):
    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return config.rope if rotates(config)[layer] else None

    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        mlp = Llama4MLP(build, config) if config.is_sparse(layer) else GatedMLP(build, config)
        return PreNormBlock(build, config, Llama4Attention(build, config, layer), mlp)
