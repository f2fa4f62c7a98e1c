"""Feed-forward blocks, gated and plain."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.linear import Linear


class GatedMLP(nn.Module):
    """down(f(gate(x)) * up(x)), gate and up in one projection (Shazeer 2020). `width` is the model's if not given."""

    def __init__(self, build: Build, config: ModelConfig, width: int | None = None) -> None:
        super().__init__()
        self._kernels, self._activation = build.kernels, config.activation
        width = width or config.mlp
        self.gate_up = Linear(build, config.hidden, {"gate": width, "up": width}, bias=config.mlp_bias)
        self.down = Linear(build, width, config.hidden, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(self._kernels.gated(self.gate_up(x_TD), self._activation))


class MLP(nn.Module):
    """down(f(up(x)))."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        self._kernels, self._activation = build.kernels, config.activation
        self.up = Linear(build, config.hidden, config.mlp, bias=config.mlp_bias)
        self.down = Linear(build, config.mlp, config.hidden, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(self._kernels.activate(self.up(x_TD), self._activation))
