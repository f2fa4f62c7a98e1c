"""Weights in the order in which a platform's kernels read them, in the model's own type."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ramify.ops.kernels import Kernels
from ramify.quant.scheme import Plain


class Packed(Plain):
    """Loaded like plain weights, packed once all of them are there; the plain ones are given up then."""

    def loaded(self, layer: Any, kernels: Kernels) -> None:
        weight = layer.weight
        layer.outputs, layer.inputs = weight.shape
        assert kernels.packing is not None
        layer.weight = nn.Parameter(kernels.packing.pack(weight), requires_grad=False)

    def apply(self, layer: Any, x_TD: Tensor, kernels: Kernels) -> Tensor:
        assert kernels.packing is not None
        return kernels.packing.linear(x_TD, layer.weight, layer.outputs, getattr(layer, "bias", None))

    def rows(self, layer: Any, tokens_T: Tensor, kernels: Kernels) -> Tensor:
        assert kernels.packing is not None
        return kernels.packing.embed(tokens_T, layer.weight, layer.inputs)
