"""Norms, alone and after the addition of a residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.layers.build import Build
from ramify.layers.linear import WHOLE
from ramify.layers.loadable import Loadable


class RMSNorm(Loadable):
    """Root mean square norm. `offset` is added to the weight: Gemma stores what its weights are more than 1."""

    weight: Tensor

    def __init__(self, build: Build, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self._kernels, self.eps, self.offset = build.kernels, eps, offset
        self.declare("weight", (size,), {WHOLE: size}, build.dtype, build.device)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._kernels.rms_norm(x_TD, self.weight, self.eps, self.offset)

    def after(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add `x` to the residual, if there is one yet, and normalise the sum: (normed, the new residual)."""
        if residual_TD is None:
            return self(x_TD), x_TD
        return self._kernels.add_rms_norm(x_TD, residual_TD, self.weight, self.eps, self.offset)


class UnweightedNorm(nn.Module):
    """What divides by the root mean square and has no weights of its own, as `weight` for kernels: ones."""

    def __init__(self, build: Build, size: int) -> None:
        super().__init__()
        self.weight = torch.ones(size, dtype=build.dtype, device=build.device)


class LayerNorm(Loadable):
    """Layer norm (Ba et al. 2016), with a bias or without."""

    weight: Tensor

    def __init__(self, build: Build, size: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self._kernels, self.eps = build.kernels, eps
        self.declare("weight", (size,), {WHOLE: size}, build.dtype, build.device)
        if bias:
            self.declare("bias", (size,), {WHOLE: size}, build.dtype, build.device)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._kernels.layer_norm(x_TD, self.weight, getattr(self, "bias", None), self.eps)

    def after(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `RMSNorm.after`."""
        if residual_TD is None:
            return self(x_TD), x_TD
        return self._kernels.add_layer_norm(x_TD, residual_TD, self.weight, getattr(self, "bias", None), self.eps)


def plus(x_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
    """`x` on top of the residual, if there is one yet."""
    return x_TD if residual_TD is None else x_TD + residual_TD
