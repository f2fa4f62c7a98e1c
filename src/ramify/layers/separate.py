"""Linear layers of several groups that are stored as a scheme has them, one by one.

Where the platform multiplies groups that are packed so, they are put together when all have come. Elsewhere the grouped
kernel multiplies in the model's type alone: what a checkpoint has in int8 or four bits stays so, and groups that have
rows are computed one after another. Which have any is a question to the numbers, so such steps are not recorded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.loadable import Loadable
from ramify.ops.kernels import Packing
from ramify.quant.stored import Stored


class SeparateLinear(Loadable):
    """As `moe.GroupedLinear`: parts are named `GROUP.PART`, or stand together for all groups."""

    def __init__(self, build: Build, groups: int, inputs: int, parts: dict[str, int], bias: bool = False) -> None:
        super().__init__()
        self.outputs = sum(parts.values())
        self.each = nn.ModuleList(Linear(build, inputs, parts, bias) for _ in range(groups))
        self._packing: Packing | None = None

    def accept(self, name: str, part: str, tensor: Tensor | Stored, source: str) -> None:
        group, _, rest = part.partition(".")
        if rest:
            self._give(int(group), name, rest, tensor, source)
            return
        assert isinstance(tensor, Tensor), "quantized weights are not stored together"
        for number, some in enumerate(tensor.split(self.outputs)):
            self._give(number, name, part, some, source)

    def _give(self, group: int, name: str, part: str, tensor: Tensor | Stored, source: str) -> None:
        linear = self.each[group]
        assert isinstance(linear, Linear)
        linear.accept(name, part, tensor, source)
        if not linear.missing():
            linear.loaded()

    def loaded(self) -> None:
        """Comes with every tensor. What is put together is not kept apart."""
        linears = [linear for linear in self.each if isinstance(linear, Linear)]
        if self._packing is not None or any(linear.missing() for linear in linears):
            return
        found = [each for each in map(Linear.packed, linears) if each is not None]
        packing = found[0][0] if found else None
        if packing is None or packing.together is None or [each for each, _ in found] != [packing] * len(linears):
            return
        weight = packing.together([weight for _, weight in found], self.outputs)
        self._packing, self.weight = packing, nn.Parameter(weight, requires_grad=False)
        biases: list[Tensor] = [bias for linear in linears if (bias := getattr(linear, "bias", None)) is not None]
        self._bias = torch.cat(biases) if biases else None
        for linear in linears:
            linear.let_go()

    def forward(self, x_RD: Tensor, ends_G: Tensor) -> Tensor:
        """Rows sorted by group; those of group g end before row `ends_G[g]`."""
        if self._packing is not None and self._packing.grouped_linear is not None:
            return self._packing.grouped_linear(x_RD, self.weight, self.outputs, self._bias, ends_G)
        return self._one_by_one(x_RD, ends_G)

    def _one_by_one(self, x_RD: Tensor, ends_G: Tensor) -> Tensor:
        y_RE = torch.empty(len(x_RD), self.outputs, dtype=x_RD.dtype, device=x_RD.device)
        counts_G = ends_G.diff(prepend=ends_G.new_zeros(1))
        with_rows = counts_G.nonzero()[:, 0].tolist()  # a recorder notices `nonzero`, and would not notice `tolist`
        ends = ends_G.tolist()
        for group in with_rows:
            rows = slice(ends[group - 1] if group else 0, ends[group])
            y_RE[rows] = self.each[group](x_RD[rows])
        return y_RE
