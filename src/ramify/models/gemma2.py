"""Gemma 2: norms before and after each part, every other layer with a window, scores and logits held below a cap
(Riviere et al. 2024).
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.models.gemma import ONE, Gemma
from ramify.models.sandwich import SandwichBlock


class Gemma2(Gemma):
    qk_norm = False

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config)
        self._kernels, self._cap = build.kernels, config.numbers["final_logit_softcapping"]

    def block(self, build: Build, config: ModelConfig, layer: int) -> nn.Module:
        bias = config.attention_bias
        attention = Attention(
            build,
            config,
            layer,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=self.qk_norm,
            norm_offset=ONE,
            scale=config.numbers["query_pre_attn_scalar"] ** -0.5,
            softcap=config.numbers["attn_logit_softcapping"],
        )
        return SandwichBlock(build, config, attention, ONE)

    def logits(self, x_TD: Tensor) -> Tensor:
        logits_TV = super().logits(x_TD)
        return logits_TV if self._cap is None else self._kernels.softcap(logits_TV.float(), self._cap)
