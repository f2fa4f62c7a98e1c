"""Layers that keep a state: what goes in is projected and convolved, the state advances, what comes out is gated.

They stand where attention does, and are called like it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig, Recurrent
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.linear import WHOLE, Interleaved, Linear
from ramify.layers.loadable import Loadable
from ramify.layers.rope import Angles


class Convolution(Loadable):
    """A causal convolution of every channel by itself, and SiLU; in fp32."""

    weight: Tensor

    def __init__(self, build: Build, shape: Recurrent, bias: bool) -> None:
        super().__init__()
        self._conv = build.kernels.conv
        self.declare("weight", (shape.conv, shape.channels), {WHOLE: shape.conv}, torch.float32, build.device)
        if bias:
            self.declare("bias", (shape.channels,), {WHOLE: shape.channels}, torch.float32, build.device)

    def accept(self, name: str, part: str, tensor: Tensor, source: str) -> None:
        """Checkpoints have the weight as [channels, 1, width]."""
        super().accept(name, part, tensor.flatten(1).T if name == "weight" else tensor, source)

    def forward(self, x_TE: Tensor, layer: int, batch: Batch) -> Tensor:
        return self._conv(x_TE, self.weight, getattr(self, "bias", None), batch.pool.state(layer)[0], batch.states)


class Dynamics(Loadable):
    """How fast the state of each head forgets, in fp32: stored is the logarithm of what `decay` is the negative of."""

    decay: Tensor
    bias: Tensor

    def __init__(self, build: Build, heads: int, *more: str) -> None:
        super().__init__()
        for name in ("decay", "bias", *more):
            self.declare(name, (heads,), {WHOLE: heads}, torch.float32, build.device)

    def loaded(self) -> None:
        self.decay = nn.Parameter(-self.decay.exp(), requires_grad=False)


class GatedNorm(Loadable):
    """Root mean square norm of groups of elements, in fp32, of what was multiplied by the SiLU of a gate before (Mamba
    2); or after, where `first` (Qwen3-Next).
    """

    weight: Tensor

    def __init__(self, build: Build, size: int, eps: float, groups: int = 1, first: bool = False) -> None:
        super().__init__()
        self._kernels, self._eps, self._groups, self._first = build.kernels, eps, groups, first
        self._ones = torch.ones(size // groups, device=build.device) if groups > 1 else None
        self.declare("weight", (size,), {WHOLE: size}, torch.float32, build.device)

    def forward(self, y_TE: Tensor, gate_TE: Tensor) -> Tensor:
        """`y` in fp32, and so is the result."""
        by_TE = self._kernels.activate(gate_TE.float(), "silu")
        return self._normed(y_TE) * by_TE if self._first else self._normed(y_TE * by_TE)

    def _normed(self, y_TE: Tensor) -> Tensor:
        if self._ones is None:
            return self._kernels.rms_norm(y_TE, self.weight, self._eps)
        parts = y_TE.unflatten(1, (self._groups, -1)).flatten(0, 1)
        return self._kernels.rms_norm(parts, self._ones, self._eps).view_as(y_TE) * self.weight


class Mamba2(nn.Module):
    """The mixer of Mamba 2 (Dao and Gu 2024, section 7)."""

    def __init__(self, build: Build, config: ModelConfig, layer: int, *, bias: bool, conv_bias: bool) -> None:
        super().__init__()
        shape = config.recurrent
        assert shape is not None
        self._kernels, self._layer, self._dtype, self._groups = build.kernels, layer, build.dtype, shape.groups
        self._limits = shape.limits
        self._sizes = [shape.inner, shape.channels, shape.heads]
        self.into = Linear(build, config.hidden, sum(self._sizes), bias=bias)
        self.conv = Convolution(build, shape, conv_bias)
        self.dynamics = Dynamics(build, shape.heads, "skip")
        self.norm = GatedNorm(build, shape.inner, config.norm_eps, shape.groups)
        self.out = Linear(build, shape.inner, config.hidden, bias=bias)

    def forward(self, x_TD: Tensor, angles: Angles, batch: Batch) -> Tensor:
        gate_TE, xbc_TE, dt_TH = self.into(x_TD).split(self._sizes, dim=-1)
        dynamics = self.dynamics
        y_TE = self._kernels.ssd(
            self.conv(xbc_TE, self._layer, batch),
            dt_TH,
            dynamics.decay,
            dynamics.bias,
            dynamics.skip,
            self._limits,
            self._groups,
            batch.pool.state(self._layer)[1],
            batch.states,
        )
        return self.out(self.norm(y_TE, gate_TE).to(self._dtype))


class DeltaNet(nn.Module):
    """The gated delta net of Qwen3-Next (Yang et al. 2024): a state of keys and values that a token corrects."""

    def __init__(self, build: Build, config: ModelConfig, layer: int) -> None:
        super().__init__()
        shape = config.recurrent
        assert shape is not None
        self._kernels, self._layer, self._dtype, self._groups = build.kernels, layer, build.dtype, shape.groups
        self._sizes, self._value = [shape.channels, shape.inner, shape.heads, shape.heads], shape.value
        heads = shape.heads // shape.groups  # of a group
        values = heads * shape.value
        parts = {"qkvz": shape.channels + shape.inner, "ba": 2 * shape.heads}
        groups = {
            "qkvz": (shape.groups, [shape.key, shape.key, values, values]),
            "ba": (shape.groups, [heads, heads]),
        }
        self.into = Interleaved(build, config.hidden, parts, groups)
        self.conv = Convolution(build, shape, bias=False)
        self.dynamics = Dynamics(build, shape.heads)
        self.norm = GatedNorm(build, shape.value, config.norm_eps, first=True)
        self.out = Linear(build, shape.inner, config.hidden)

    def forward(self, x_TD: Tensor, angles: Angles, batch: Batch) -> Tensor:
        qkv_TE, gate_TE, b_TH, a_TH = self.into(x_TD).split(self._sizes, dim=-1)
        y_TE = self._kernels.delta(
            self.conv(qkv_TE, self._layer, batch),
            a_TH,
            b_TH,
            self.dynamics.decay,
            self.dynamics.bias,
            self._groups,
            batch.pool.state(self._layer)[1],
            batch.states,
        )
        by_head = self.norm(y_TE.reshape(-1, self._value), gate_TE.reshape(-1, self._value))
        return self.out(by_head.view_as(y_TE).to(self._dtype))
