"""Qwen3-Next: three layers of four are gated delta nets, the fourth attends behind a gate; experts beside a shared one
with a gate; norms whose weights are stored as what they are more than 1 (Qwen team 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.attention import Attention
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import Interleaved
from ramify.layers.mlp import GatedMLP
from ramify.layers.norm import RMSNorm
from ramify.layers.rope import Angles
from ramify.layers.state import DeltaNet
from ramify.models.decoder import Decoder, PreNormBlock
from ramify.models.qwen2_moe import GatedSharedMLP

OFFSET = 1.0  # of the weights of norms


class GatedAttention(Attention):
    """out(attended * sigmoid(gate)); the gate comes with the queries, head by head."""

    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        bias = config.attention_bias
        super().__init__(build, config, layer, qkv_bias=bias, out_bias=bias, qk_norm=True, norm_offset=OFFSET)
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self._sizes = [q, q, kv, kv]
        groups = {"q": (config.heads, [config.head_dim, config.head_dim])}
        self.qkv = Interleaved(build, config.hidden, {"q": 2 * q, "k": kv, "v": kv}, groups, bias=bias)

    def forward(self, x_TD: Tensor, angles: Angles, batch: Batch) -> Tensor:
        q_TE, gate_TE, k_TE, v_TE = self.qkv(x_TD).split(self._sizes, dim=-1)
        attended_TE = self.attend(torch.cat((q_TE, k_TE, v_TE), dim=-1), angles, batch)
        return self.out(attended_TE * self._kernels.activate(gate_TE, "sigmoid"))


class Qwen3Next(Decoder):
    def block(self, build: Build, config: ModelConfig, layer: int) -> PreNormBlock:
        mixer = (DeltaNet if config.is_recurrent(layer) else GatedAttention)(build, config, layer)
        mlp: nn.Module = GatedSharedMLP(build, config) if config.is_sparse(layer) else GatedMLP(build, config)
        return PreNormBlock(build, config, mixer, mlp, OFFSET)

    def last_norm(self, build: Build, config: ModelConfig) -> RMSNorm:
        return RMSNorm(build, config.hidden, config.norm_eps, OFFSET)
