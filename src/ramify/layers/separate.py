"""Linear layers of several groups that are stored as a scheme has them, one by one.

The grouped kernel multiplies in the model's type. What a checkpoint has in int8 or four bits stays so here, and groups
that have rows are computed one after another: which have any is a question to the numbers, so such steps are not
recorded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.loadable import Loadable
from ramify.quant.stored import Stored


class SeparateLinear(Loadable):
    """As `moe.GroupedLinear`: parts are named `GROUP.PART`, or stand together for all groups."""

    def __init__(self, build: Build, groups: int, inputs: int, parts: dict[str, int], bias: bool = False) -> None:
        super().__init__()
        self.outputs = sum(parts.values())
        self.each = nn.ModuleList(Linear(build, inputs, parts, bias) for _ in range(groups))

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

    def forward(self, x_RD: Tensor, ends_G: Tensor) -> Tensor:
        """Rows sorted by group; those of group g end before row `ends_G[g]`."""
        y_RE = torch.empty(len(x_RD), self.outputs, dtype=x_RD.dtype, device=x_RD.device)
        counts_G = ends_G.diff(prepend=ends_G.new_zeros(1))
        with_rows = counts_G.nonzero()[:, 0].tolist()  # a recorder notices `nonzero`, and would not notice `tolist`
        ends = ends_G.tolist()
        for group in with_rows:
            rows = slice(ends[group - 1] if group else 0, ends[group])
            y_RE[rows] = self.each[group](x_RD[rows])
        return y_RE
