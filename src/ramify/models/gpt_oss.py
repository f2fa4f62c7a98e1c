"""GPT-OSS: experts with clamped gates, attention sinks, every other layer with a window (OpenAI 2025).

Experts stored in MXFP4 are computed with in the model's own type: they are unpacked while they are loaded.
"""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.build import Build
from ramify.layers.moe import Experts, Router
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.models.layouts import mxfp4_block
from ramify.ops.routing import Routing


class GptOssMLP(nn.Module):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        assert config.experts is not None
        self._route = build.kernels.route
        self._routing = Routing(config.experts.chosen, score="logit", after="softmax")
        self.router = Router(build, config, bias=True)
        self.experts = Experts(build, config, bias=True, activation="clamped_swiglu", block=mxfp4_block(config))

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.experts(x_TD, *self._route(self.router(x_TD), None, self._routing))


class GptOss(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        bias = config.attention_bias
        attention = Attention(build, config, layer, qkv_bias=bias, out_bias=bias, sinks=True)
        return PreNormBlock(build, config, attention, GptOssMLP(build, config))
