"""How a linear layer stores its weight and multiplies by it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ramify.ops.kernels import Kernels, Packing
from ramify.quant.stored import Stored


class Holder(Protocol):
    """The layer a scheme works for; see `layers.loadable.Loadable`."""

    def declare(
        self, name: str, shape: tuple[int, ...], parts: dict[str, int], dtype: torch.dtype, device: torch.device
    ) -> None: ...


class LinearScheme(Protocol):
    """One way of storing linears. Stateless: what it needs stands on the layer. `separate`: experts too, one by one."""

    separate: bool

    def create(
        self, layer: Holder, inputs: int, parts: dict[str, int], bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Declare the layer's parameters; `parts` are the fused projections and their output sizes."""

    def accepts(self, layer: Holder, part: str, stored: Stored) -> bool:
        """Whether the layer keeps a quantized part of its weight as it is; otherwise it is dequantized."""

    def loaded(self, layer: Holder, kernels: Kernels) -> None:
        """All tensors are in: pack, if this scheme packs."""

    def packed(self, layer: Holder) -> tuple[Packing, Tensor] | None:
        """What a loaded layer multiplies by, where that is one packed weight and nothing beside it."""

    def apply(self, layer: Holder, x_TD: Tensor, kernels: Kernels) -> Tensor:
        """x times the weight, plus the bias if there is one."""

    def rows(self, layer: Holder, tokens_T: Tensor, kernels: Kernels) -> Tensor:
        """Rows of the weight by number: what an embedding is."""


class Plain:
    """Weights as they come, in the model's own type."""

    separate = False

    def create(
        self, layer: Holder, inputs: int, parts: dict[str, int], bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        outputs = sum(parts.values())
        layer.declare("weight", (outputs, inputs), parts, dtype, device)
        if bias:
            layer.declare("bias", (outputs,), parts, dtype, device)

    def accepts(self, layer: Holder, part: str, stored: Stored) -> bool:
        return False

    def loaded(self, layer: Holder, kernels: Kernels) -> None: ...

    def packed(self, layer: Holder) -> tuple[Packing, Tensor] | None:
        return None

    def apply(self, layer: Holder, x_TD: Tensor, kernels: Kernels) -> Tensor:
        return kernels.linear(x_TD, layer.weight, getattr(layer, "bias", None))  # type: ignore[attr-defined]

    def rows(self, layer: Holder, tokens_T: Tensor, kernels: Kernels) -> Tensor:
        return kernels.embed(tokens_T, layer.weight)  # type: ignore[attr-defined]
