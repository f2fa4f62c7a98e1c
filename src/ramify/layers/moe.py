"""Mixtures of experts: who computes a token, and the experts themselves.

Tokens are sorted by expert and each expert computes its own in one go (as in MegaBlocks, Gale et al. 2022). A row's
arithmetic and the order in which a token's experts are added up depend on the token alone.

Where experts are to stand on several devices, `Experts` is what is divided: it takes global expert numbers, and a part
of them could be left to others between sorting and combining.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers import grouped
from ramify.layers.build import Build
from ramify.layers.linear import WHOLE, Linear
from ramify.layers.loadable import Loadable
from ramify.layers.separate import SeparateLinear
from ramify.ops.routing import Routing
from ramify.quant.choose import unquantized


class GroupedLinear(Loadable):
    """A linear layer of each of several groups. Parts are named `GROUP.PART`; the weight is [groups x outputs, inputs]
    until it is packed. With `block`, weights come in blocks of so many inputs with a scale each.
    """

    weight: Tensor
    scales: Tensor

    def __init__(
        self, build: Build, groups: int, inputs: int, parts: dict[str, int], bias: bool = False, block: int = 0
    ) -> None:
        super().__init__()
        self._kernels, self._groups, self.outputs = build.kernels, groups, sum(parts.values())
        named = {f"{group}.{part}": rows for group in range(groups) for part, rows in parts.items()}
        self.declare("weight", (groups * self.outputs, inputs), named, build.dtype, build.device)
        if bias:
            self.declare("bias", (groups * self.outputs,), named, build.dtype, build.device)
        self._block = block
        if block:
            self.declare("scales", (groups * self.outputs, inputs // block), named, build.dtype, build.device)

    def loaded(self) -> None:
        if self._block:
            self.weight.unflatten(1, (-1, self._block)).mul_(self.scales[..., None])  # by powers of 2: exact
            self.scales = nn.Parameter(self.scales.new_empty(0), requires_grad=False)
        weight_GED = self.weight.unflatten(0, (self._groups, -1))
        self.weight = nn.Parameter(grouped.stored(self._kernels, weight_GED), requires_grad=False)

    def forward(self, x_RD: Tensor, ends_G: Tensor) -> Tensor:
        """Rows sorted by group; those of group g end before row `ends_G[g]`."""
        return grouped.apply(self._kernels, x_RD, self.weight, self.outputs, getattr(self, "bias", None), ends_G)


class Experts(nn.Module):
    """Gated feed-forward blocks, of which each token has a few."""

    def __init__(
        self,
        build: Build,
        config: ModelConfig,
        *,
        bias: bool = False,
        activation: str | None = None,
        block: int = 0,
    ) -> None:
        super().__init__()
        assert config.experts is not None
        self._kernels, self._activation = build.kernels, activation or config.activation
        self._count, width = config.experts.count, config.experts.mlp
        halves = {"gate": width, "up": width}
        self.gate_up: nn.Module
        self.down: nn.Module
        if build.scheme.separate and not block:
            self.gate_up = SeparateLinear(build, self._count, config.hidden, halves, bias)
            self.down = SeparateLinear(build, self._count, width, {WHOLE: config.hidden}, bias)
        else:
            self.gate_up = GroupedLinear(build, self._count, config.hidden, halves, bias, block)
            self.down = GroupedLinear(build, self._count, width, {WHOLE: config.hidden}, bias, block)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, chosen_TK: Tensor) -> Tensor:
        tokens_R, ends_G, rows_TK = self._kernels.by_expert(chosen_TK, self._count)
        up_RE = self.gate_up(x_TD.index_select(0, tokens_R), ends_G)
        y_RD = self.down(self._kernels.gated(up_RE, self._activation), ends_G)
        return self._kernels.combine(y_RD, rows_TK, weights_TK)


class Router(nn.Module):
    """Scores experts for each token, in fp32: where two are close, the rounding of a shorter type would choose."""

    def __init__(self, build: Build, config: ModelConfig, bias: bool = False) -> None:
        super().__init__()
        assert config.experts is not None
        exact = replace(build, scheme=unquantized(build.kernels), dtype=torch.float32)
        self.linear = Linear(exact, config.hidden, config.experts.count, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.linear(x_TD.float())


class SparseMLP(nn.Module):
    """Router and experts."""

    def __init__(self, build: Build, config: ModelConfig, routing: Routing) -> None:
        super().__init__()
        self.router = Router(build, config)
        self.experts = Experts(build, config)
        self._route, self._routing = build.kernels.route, routing

    @property
    def correction_G(self) -> Tensor | None:
        """What is added to the scores for choosing."""
        return None

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.experts(x_TD, *self._route(self.router(x_TD), self.correction_G, self._routing))
