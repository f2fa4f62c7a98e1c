"""Multi-head attention with grouped key-value heads over the paged pool."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import WHOLE, Linear
from ramify.layers.loadable import Loadable
from ramify.layers.norm import RMSNorm, UnweightedNorm
from ramify.layers.rope import Angles
from ramify.ops.attention import Rule


class Attention(nn.Module):
    """q, k and v in one projection, rotated and stored by one op, attended by the backend, projected back.

    `qk_norm` normalises queries and keys per head before they are rotated (Qwen3), with `norm_offset` added to the
    weights. Scores are multiplied by `scale`, 1 / sqrt(head size) where none is given; `softcap` and `sinks` are those
    of `ops.attention.Rule`. `interleaved` pairs are (2i, 2i + 1). The window or chunk is that of the layer in the
    configuration.
    """

    def __init__(
        self,
        build: Build,
        config: ModelConfig,
        layer: int,
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: bool = False,
        norm_offset: float = 0.0,
        interleaved: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
    ) -> None:
        super().__init__()
        self._kernels, self._backend = build.kernels, build.attention
        self._layer, self._heads, self._eps = layer, config.heads, config.norm_eps
        self._interleaved, self._offset = interleaved, norm_offset
        self._rule = Rule(
            config.head_dim**-0.5 if scale is None else scale,
            config.window_of(layer),
            softcap,
            chunk=config.chunk_of(layer),
        )
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.qkv = Linear(build, config.hidden, {"q": q, "k": kv, "v": kv}, bias=qkv_bias)
        self.out = Linear(build, q, config.hidden, bias=out_bias)
        self.q_norm: RMSNorm | UnweightedNorm | None = None
        self.k_norm: RMSNorm | UnweightedNorm | None = None
        if qk_norm:
            self.q_norm = RMSNorm(build, config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(build, config.head_dim, config.norm_eps)
        self.sinks = Sinks(build, config.heads) if sinks else None

    def forward(self, x_TD: Tensor, angles: Angles, batch: Batch) -> Tensor:
        return self.out(self.attend(self.project(x_TD), angles, batch))

    def attend(self, qkv_TE: Tensor, angles: Angles, batch: Batch) -> Tensor:
        """What the heads find, one after another."""
        (k_pool, v_pool), place = batch.pool.layer(self._layer), batch.place(self._layer)
        q_THC = self._kernels.qkv_rope_store(
            qkv_TE,
            self._heads,
            self.q_norm.weight if self.q_norm else None,
            self.k_norm.weight if self.k_norm else None,
            self._eps,
            angles.cos_TR,
            angles.sin_TR,
            k_pool,
            v_pool,
            place.write_at_T,
            self._interleaved,
            self._offset,
        )
        q_THC = self.queries(q_THC, batch)
        return self._backend.forward(q_THC, k_pool, v_pool, place.attention, self.rule).flatten(1)

    def project(self, x_TD: Tensor) -> Tensor:
        """Queries, keys and values, one after another."""
        return self.qkv(x_TD)

    def queries(self, q_THC: Tensor, batch: Batch) -> Tensor:
        """What attends, of rotated queries."""
        return q_THC

    @property
    def rule(self) -> Rule:
        if self.sinks is None:
            return self._rule
        return replace(self._rule, sinks_H=self.sinks.weight)


class Sinks(Loadable):
    """A score per head that takes its share of the softmax, in fp32 (Xiao et al. 2023, as GPT-OSS has it)."""

    weight: Tensor

    def __init__(self, build: Build, heads: int) -> None:
        super().__init__()
        self.declare("weight", (heads,), {WHOLE: heads}, torch.float32, build.device)
