"""Command R, R+ and R7B: attention and feed-forward block beside each other, after one layer norm (Cohere 2024).

    x += attention(norm(x)) + mlp(norm(x))

R+ also normalises queries and keys, each head with weights of its own. In R7B three layers of four have a window, and
the fourth does not rotate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import WHOLE
from ramify.layers.loadable import Loadable
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import LayerNorm
from ramify.layers.rope import Angles
from ramify.models.decoder import Decoder, Stream


class HeadsNorm(Loadable):
    """Layer norm of each head, without a bias, each with weights of its own."""

    weight: Tensor

    def __init__(self, build: Build, heads: int, size: int, eps: float) -> None:
        super().__init__()
        self._kernels, self.eps = build.kernels, eps
        self.declare("weight", (heads, size), {WHOLE: heads}, build.dtype, build.device)
        self._ones = torch.ones(size, dtype=build.dtype, device=build.device)

    def forward(self, x_TE: Tensor) -> Tensor:
        heads_RC = x_TE.reshape(-1, self.weight.shape[1])
        normed_RC = self._kernels.layer_norm(heads_RC, self._ones, None, self.eps)
        return (normed_RC.view(-1, *self.weight.shape) * self.weight).flatten(1)


class CohereAttention(Attention):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        bias, size = config.attention_bias, config.head_dim
        super().__init__(build, config, layer, qkv_bias=bias, out_bias=bias, interleaved=True)
        self._sizes = [config.heads * size, *[config.kv_heads * size] * 2]
        if config.numbers.get("use_qk_norm"):
            self.q_heads_norm = HeadsNorm(build, config.heads, size, config.norm_eps)
            self.k_heads_norm = HeadsNorm(build, config.kv_heads, size, config.norm_eps)

    def project(self, x_TD: Tensor) -> Tensor:
        qkv = self.qkv(x_TD)
        if not hasattr(self, "q_heads_norm"):
            return qkv
        q, k, v = qkv.split(self._sizes, dim=-1)
        return torch.cat((self.q_heads_norm(q), self.k_heads_norm(k), v), dim=-1)


class ParallelBlock(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = CohereAttention(build, config, layer)
        self.mlp = GatedMLP(build, config)
        self.norm = LayerNorm(build, config.hidden, config.norm_eps, bias=False)

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, angles: Angles, batch: Batch) -> Stream:
        x_TD, residual_TD = self.norm.after(x_TD, residual_TD)
        return self.attention(x_TD, angles, batch) + self.mlp(x_TD), residual_TD


class Cohere(Decoder):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config)
        self._scale = config.numbers["logit_scale"]

    def block(self, build: Build, config: ModelConfig, layer: int) -> ParallelBlock:
        return ParallelBlock(build, config, layer)

    def last_norm(self, build: Build, config: ModelConfig) -> LayerNorm:
        return LayerNorm(build, config.hidden, config.norm_eps, bias=False)

    def logits(self, x_TD: Tensor) -> Tensor:
        return super().logits(x_TD) * self._scale


class Cohere2(Cohere):
    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return config.local_rope if config.windowed[layer] else None
