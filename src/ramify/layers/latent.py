"""Multi-head latent attention (DeepSeek V2, section 2.1), over a cache of latents.

    latent = norm(down(x))             one vector of rank R per position, shared by all heads
    k = [K_h latent, rotated(x)]       what a head would see; the rotated part is shared by all heads
    v = V_h latent

Keys are never made: a query is taken to the latents instead, q' = K_h' q, and what was attended is taken back by V_h
(section 2.1.2, "absorbed"). So all heads attend over the same [latent, rotated part], of which the latent is the value
too, whatever the length of the query: prompts and single tokens have the same arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers import grouped
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import WHOLE, Linear
from ramify.layers.loadable import Loadable
from ramify.layers.norm import RMSNorm
from ramify.layers.rope import Angles, yarn_mscale
from ramify.ops.attention import Rule

EPS = 1e-6  # of the norms of latents, whatever the model's own


class Expansion(Loadable):
    """For each head, what makes keys and values of latents: as two sets of small matrices, one per head.

    `to_latent` is [heads, R, plain] and `from_latent` [heads, value, R].
    """

    weight: Tensor

    def __init__(self, build: Build, heads: int, rank: int, plain: int, value: int) -> None:
        super().__init__()
        self._kernels, self._heads, self._plain, self._rank, self._value = build.kernels, heads, plain, rank, value
        self.declare(
            "weight", (heads * (plain + value), rank), {WHOLE: heads * (plain + value)}, build.dtype, build.device
        )

    def loaded(self) -> None:
        keys_HPR, values_HVR = self.weight.unflatten(0, (self._heads, -1)).split([self._plain, self._value], dim=1)
        self.keys = grouped.stored(self._kernels, keys_HPR.transpose(1, 2).contiguous())
        self.values = grouped.stored(self._kernels, values_HVR.contiguous())
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def to_latent(self, q_THP: Tensor) -> Tensor:
        return self._each(q_THP, self.keys, self._rank)

    def from_latent(self, x_THR: Tensor) -> Tensor:
        return self._each(x_THR, self.values, self._value)

    def _each(self, x_THC: Tensor, weight: Tensor, outputs: int) -> Tensor:
        """Every head's own matrix: rows are sorted by head."""
        tokens, heads, _ = x_THC.shape
        x_RC = x_THC.transpose(0, 1).flatten(0, 1)
        ends_H = torch.arange(1, heads + 1, device=x_THC.device) * tokens
        y_RE = grouped.apply(self._kernels, x_RC, weight, outputs, None, ends_H)
        return y_RE.unflatten(0, (heads, tokens)).transpose(0, 1)


class LatentAttention(nn.Module):
    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        latent, bias = config.latent, config.attention_bias
        assert latent is not None
        self._kernels, self._backend, self._layer = build.kernels, build.attention, layer
        self._heads, self._latent = config.heads, latent
        self._interleaved = config.numbers.get("rope_interleave", True)
        self._rule = Rule(_scale(config))
        queries = config.heads * (latent.plain + latent.rotated)
        if latent.q_rank is None:
            self.q = Linear(build, config.hidden, queries)
        else:
            self.q_down = Linear(build, config.hidden, latent.q_rank, bias=bias)
            self.q_norm = RMSNorm(build, latent.q_rank, EPS)
            self.q = Linear(build, latent.q_rank, queries)
        self.kv_down = Linear(build, config.hidden, latent.kv_rank + latent.rotated, bias=bias)
        self.kv_norm = RMSNorm(build, latent.kv_rank, EPS)
        self.expansion = Expansion(build, config.heads, latent.kv_rank, latent.plain, latent.value)
        self.out = Linear(build, config.heads * latent.value, config.hidden, bias=bias)

    def forward(self, x_TD: Tensor, angles: Angles, batch: Batch) -> Tensor:
        (k_pool, v_pool), place = batch.pool.layer(self._layer), batch.place(self._layer)
        self._store(x_TD, angles, k_pool, place.write_at_T)
        attended_THR = self._backend.forward(self._queries(x_TD, angles), k_pool, v_pool, place.attention, self._rule)
        return self.out(self.expansion.from_latent(attended_THR).flatten(1))

    def _queries(self, x_TD: Tensor, angles: Angles) -> Tensor:
        """[T, H, R + rotated]: what is compared with latents, and what with their rotated parts."""
        x_TD = x_TD if self._latent.q_rank is None else self.q_norm(self.q_down(x_TD))
        q_THC = self.q(x_TD).unflatten(-1, (self._heads, -1))
        plain, turning = q_THC.split([self._latent.plain, self._latent.rotated], dim=-1)
        turned = self._kernels.rotate(turning, *angles, self._interleaved)
        return torch.cat((self.expansion.to_latent(plain), turned), dim=-1)

    def _store(self, x_TD: Tensor, angles: Angles, pool: Tensor, write_at_T: Tensor) -> None:
        latent, turning = self.kv_down(x_TD).split([self._latent.kv_rank, self._latent.rotated], dim=-1)
        turned = self._kernels.rotate(turning.unsqueeze(1), *angles, self._interleaved)
        kept = torch.cat((self.kv_norm(latent).unsqueeze(1), turned), dim=-1)
        self._kernels.store(kept, pool, write_at_T)


def _scale(config: ModelConfig) -> float:
    """1 / sqrt(head size), corrected where YaRN says how (DeepSeek's configurations do)."""
    scaling, scale = config.rope.scaling, config.head_dim**-0.5
    if config.rope.kind != "default" and scaling.get("mscale_all_dim"):
        scale *= yarn_mscale(scaling["factor"], scaling["mscale_all_dim"]) ** 2
    return scale
