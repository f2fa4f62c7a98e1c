"""Linears of a quantized checkpoint, in as few bits as the kernels compute in.

Projections that are fused may have been stored in different forms. Neighbours of one form make a run, with a linear of
its own; a layer's output is what its runs give, side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ramify.config.quantized import MOST_INPUTS
from ramify.config.stored import GROUP
from ramify.ops.kernels import Kernels, Packing
from ramify.quant.scheme import Plain
from ramify.quant.stored import Int4, Int8, Stored


def parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class PlainRun(nn.Module):
    """In the model's own type."""

    form = "in the model's type"

    def __init__(self, weight_ED: Tensor, kernels: Kernels) -> None:
        super().__init__()
        self.outputs, self._kernels = len(weight_ED), kernels
        packing = kernels.packing
        self.weight = parameter(weight_ED.clone() if packing is None else packing.pack(weight_ED))

    def packed(self) -> tuple[Packing, Tensor] | None:
        return None if self._kernels.packing is None else (self._kernels.packing, self.weight)

    def forward(self, x_TD: Tensor, bias_E: Tensor | None) -> Tensor:
        packing = self._kernels.packing
        if packing is None:
            return self._kernels.linear(x_TD, self.weight, bias_E)
        return packing.linear(x_TD, self.weight, self.outputs, bias_E)


class Int8Run(nn.Module):
    form = "in int8"

    def __init__(self, parts: list[Int8], packing: Packing) -> None:
        super().__init__()
        assert packing.take is not None
        whole_ED, scale_E = torch.cat([part.whole_ED for part in parts]), torch.cat([part.scale_E for part in parts])
        self.outputs, self._packing = len(whole_ED), packing
        self.weight = parameter(packing.take(whole_ED, scale_E))

    def packed(self) -> tuple[Packing, Tensor] | None:
        return self._packing, self.weight

    def forward(self, x_TD: Tensor, bias_E: Tensor | None) -> Tensor:
        return self._packing.linear(x_TD, self.weight, self.outputs, bias_E)


class Int4Run(nn.Module):
    """y = ((half - 8) * scale) x + offset * sum(x over a group): the second is a linear over sums, for one in
    `group` inputs.
    """

    form = "in four bits"

    def __init__(self, parts: list[Int4], kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        half_ED = torch.cat([part.half_ED for part in parts])
        scale_EG = torch.cat([part.scale_EG for part in parts])
        self.outputs, self._packing, self._group = len(half_ED), kernels.int4, parts[0].group
        groups = -(-half_ED.shape[1] // GROUP)
        wide = scale_EG.repeat_interleave(-(-self._group // GROUP), 1)[:, :groups]
        assert kernels.int4.take is not None
        self.weight = parameter(kernels.int4.take(half_ED, wide))
        self.order = None if parts[0].order_D is None else parameter(parts[0].order_D)
        offsets = [part.offset_EG for part in parts if part.offset_EG is not None]
        self.offsets = PlainRun(torch.cat(offsets).to(dtype), kernels) if offsets else None

    def packed(self) -> tuple[Packing, Tensor] | None:
        return None if self.order is not None or self.offsets is not None else (self._packing, self.weight)

    def forward(self, x_TD: Tensor, bias_E: Tensor | None) -> Tensor:
        if self.order is not None:
            x_TD = x_TD.index_select(1, self.order)
        y_TE = self._packing.linear(x_TD, self.weight, self.outputs, bias_E)
        return y_TE if self.offsets is None else y_TE + self.offsets(self._sums(x_TD), None)

    def _sums(self, x_TD: Tensor) -> Tensor:
        if short := -x_TD.shape[1] % self._group:
            x_TD = torch.nn.functional.pad(x_TD, (0, short))
        return x_TD.unflatten(1, (-1, self._group)).sum(-1)


class Kept(Plain):
    """What a checkpoint has in int8 or four bits stays so; all else becomes the model's type. `separate` where most of
    it is in few bits.
    """

    def __init__(self, separate: bool) -> None:
        self.separate = separate

    def accepts(self, layer: Any, part: str, stored: Stored) -> bool:
        """Whether the layer keeps a part as it is stored, until it is complete."""
        if not isinstance(stored, Int8 | Int4) or stored.shape[1] > MOST_INPUTS:
            return False
        layer.kept[part] = stored
        return True

    def create(self, layer: Any, *arguments: Any) -> None:
        super().create(layer, *arguments)
        layer.kept = {}

    def loaded(self, layer: Any, kernels: Kernels) -> None:
        dtype = layer.weight.dtype
        parts = _parts(layer)
        runs = [
            _run([stored for _, stored in each], kernels, dtype)
            for _, each in groupby(parts, key=lambda part: _form(part[1]))
        ]
        layer.runs, layer.kept = nn.ModuleList(runs), {}
        layer.weight = parameter(torch.empty(0, dtype=dtype))

    def packed(self, layer: Any) -> tuple[Packing, Tensor] | None:
        return layer.runs[0].packed() if len(layer.runs) == 1 else None

    def apply(self, layer: Any, x_TD: Tensor, kernels: Kernels) -> Tensor:
        bias = getattr(layer, "bias", None)
        if len(layer.runs) == 1:
            return layer.runs[0](x_TD, bias)
        found, first = [], 0
        for run in layer.runs:
            found.append(run(x_TD, None if bias is None else bias[first : first + run.outputs]))
            first += run.outputs
        return torch.cat(found, dim=-1)

    def rows(self, layer: Any, tokens_T: Tensor, kernels: Kernels) -> Tensor:
        raise AssertionError("embeddings are not stored so")


def _parts(layer: Any) -> Iterator[tuple[str, Stored | Tensor]]:
    """The parts of a weight in their order, each as it came."""
    if len(layer.kept) == 1 and not any(part in layer.kept for part in layer.parts_of("weight")):
        yield from layer.kept.items()  # a checkpoint that stores fused what is declared apart
        return
    for name, part in layer.parts_of("weight").items():
        if name in layer.kept:
            yield name, layer.kept[name]
        else:
            yield name, layer.weight[part.first : part.first + part.rows]


def _form(part: Stored | Tensor) -> tuple[Any, ...]:
    """Parts of equal form stand in one run."""
    if isinstance(part, Int4):
        order = None if part.order_D is None else part.order_D.numpy().tobytes()
        return "int4", part.group, part.offset_EG is None, order
    return ("int8",) if isinstance(part, Int8) else ("plain",)


def _run(parts: list[Any], kernels: Kernels, dtype: torch.dtype) -> nn.Module:
    if isinstance(parts[0], Int8):
        return Int8Run(parts, kernels.w8a8)
    if isinstance(parts[0], Int4):
        return Int4Run(parts, kernels, dtype)
    return PlainRun(torch.cat(parts) if len(parts) > 1 else parts[0], kernels)
