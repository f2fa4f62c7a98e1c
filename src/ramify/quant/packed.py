"""Weights stored by a platform's kernels: in the order in which they are read, or quantized."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ramify.ops.kernels import Kernels, Packing
from ramify.quant.scheme import Plain


class Packed(Plain):
    """Loaded like plain weights, packed as soon as a layer is complete; the plain ones are given up then."""

    def __init__(self, packing: Packing, separate: bool = False) -> None:
        self._packing, self.separate = packing, separate

    def loaded(self, layer: Any, kernels: Kernels) -> None:
        weight = layer.weight
        layer.outputs, layer.inputs = weight.shape
        layer.dtype = weight.dtype
        layer.weight = nn.Parameter(self._packing.pack(weight), requires_grad=False)

    def packed(self, layer: Any) -> tuple[Packing, Tensor]:
        return self._packing, layer.weight

    def apply(self, layer: Any, x_TD: Tensor, kernels: Kernels) -> Tensor:
        return self._packing.linear(x_TD, layer.weight, layer.outputs, getattr(layer, "bias", None))

    def rows(self, layer: Any, tokens_T: Tensor, kernels: Kernels) -> Tensor:
        assert self._packing.embed is not None
        return self._packing.embed(tokens_T, layer.weight, layer.inputs).to(layer.dtype)
