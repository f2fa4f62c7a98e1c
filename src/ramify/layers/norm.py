"""RMSNorm, alone and fused with the residual that comes before it."""

from __future__ import annotations

from torch import Tensor

from ramify.layers.build import Build
from ramify.layers.linear import WHOLE
from ramify.layers.loadable import Loadable


class RMSNorm(Loadable):
    weight: Tensor

    def __init__(self, build: Build, size: int, eps: float) -> None:
        super().__init__()
        self._kernels, self.eps = build.kernels, eps
        self.declare("weight", (size,), {WHOLE: size}, build.dtype, build.device)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._kernels.rms_norm(x_TD, self.weight, self.eps)

    def after(self, x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Add `x` to the residual and normalise the sum: (normed, the new residual)."""
        return self._kernels.add_rms_norm(x_TD, residual_TD, self.weight, self.eps)
