"""Multi-head attention with grouped key-value heads over the paged pool."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.norm import RMSNorm


class Attention(nn.Module):
    """q, k and v in one projection, rotated and stored by one op, attended by the backend, projected back.

    `qk_norm` normalises queries and keys per head before they are rotated (Qwen3).
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
    ) -> None:
        super().__init__()
        self._kernels, self._backend = build.kernels, build.attention
        self._layer, self._heads, self._eps = layer, config.heads, config.norm_eps
        self._scale = config.head_dim**-0.5
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.qkv = Linear(build, config.hidden, {"q": q, "k": kv, "v": kv}, bias=qkv_bias)
        self.out = Linear(build, q, config.hidden, bias=out_bias)
        self.q_norm = RMSNorm(build, config.head_dim, config.norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(build, config.head_dim, config.norm_eps) if qk_norm else None

    def forward(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, batch: Batch) -> Tensor:
        k_pool, v_pool = batch.pool.layer(self._layer)
        q_THC = self._kernels.qkv_rope_store(
            self.qkv(x_TD),
            self._heads,
            self.q_norm.weight if self.q_norm else None,
            self.k_norm.weight if self.k_norm else None,
            self._eps,
            cos_TR,
            sin_TR,
            k_pool,
            v_pool,
            batch.write_at_T,
        )
        attended_THC = self._backend.forward(q_THC, k_pool, v_pool, batch.attention, self._scale)
        return self.out(attended_THC.flatten(1))
