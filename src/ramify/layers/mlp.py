"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.config.model import ACTIVATIONS, ModelConfig
from ramify.layers.build import Build
from ramify.layers.linear import Linear


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one projection (Shazeer 2020)."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        assert config.activation in ACTIVATIONS
        self._kernels = build.kernels
        self.gate_up = Linear(build, config.hidden, {"gate": config.mlp, "up": config.mlp}, bias=config.mlp_bias)
        self.down = Linear(build, config.mlp, config.hidden, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(self._kernels.silu_mul(self.gate_up(x_TD)))
