"""Mixtures of experts: who computes a token, and the experts themselves.

Tokens are sorted by expert and each expert computes its own in one go (as in MegaBlocks, Gale et al. 2022). A row's
arithmetic and the order in which a token's experts are added up depend on the token alone.

Where experts are to stand on several devices, `Experts` is what is divided: it takes global expert numbers, and a part
of them could be left to others between sorting and combining.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers import grouped
from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.loadable import Loadable
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
        self.gate_up = GroupedLinear(build, self._count, config.hidden, {"gate": width, "up": width}, bias, block)
        self.down = GroupedLinear(build, self._count, width, {"all": config.hidden}, bias, block)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, chosen_TK: Tensor) -> Tensor:
        tokens_R, ends_G, rows_TK = by_expert(chosen_TK, self._count)
        up_RE = self.gate_up(x_TD.index_select(0, tokens_R), ends_G)
        y_RD = self.down(self._kernels.gated(up_RE, self._activation), ends_G)
        return self._kernels.combine(y_RD, rows_TK, weights_TK)


def by_expert(chosen_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows sorted by which of `count` experts computes them: the token of each, where the rows of every expert end, and
    which rows are a token's.
    """
    flat = chosen_TK.flatten()
    order_R = flat.argsort(stable=True)
    counts_G = torch.zeros(count, dtype=torch.int64, device=flat.device)
    ends_G = counts_G.index_add_(0, flat, torch.ones_like(flat)).cumsum(0)
    rows = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    return order_R // chosen_TK.shape[1], ends_G, rows.view_as(chosen_TK)


class Choice(Protocol):
    """From the scores of all experts to the weights and numbers of those chosen, by falling score."""

    def __call__(self, logits_TG: Tensor, /) -> tuple[Tensor, Tensor]: ...


class Router(nn.Module):
    """Scores experts for each token, in fp32: where two are close, the rounding of a shorter type would choose."""

    def __init__(self, build: Build, config: ModelConfig, bias: bool = False) -> None:
        super().__init__()
        assert config.experts is not None
        exact = replace(build, scheme=unquantized(build.kernels), dtype=torch.float32)
        self.linear = Linear(exact, config.hidden, config.experts.count, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.linear(x_TD.float())


def softmax_then_choose(logits_TG: Tensor, chosen: int, normalise: bool) -> tuple[Tensor, Tensor]:
    """Mixtral, Qwen: the probabilities of all experts, of which the best count, as they are or scaled to sum to 1."""
    weights_TK, chosen_TK = logits_TG.softmax(-1).topk(chosen, dim=-1)
    return (normalised(weights_TK) if normalise else weights_TK), chosen_TK


def choose_then_softmax(logits_TG: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """GPT-OSS, Granite: probabilities among the best."""
    best_TK, chosen_TK = logits_TG.topk(chosen, dim=-1)
    return best_TK.softmax(-1), chosen_TK


def normalised(weights_TK: Tensor) -> Tensor:
    """Scaled to sum to 1, summed in the order of the choice."""
    total_T1 = weights_TK[:, :1]
    for k in range(1, weights_TK.shape[1]):
        total_T1 = total_T1 + weights_TK[:, k : k + 1]
    return weights_TK / (total_T1 + 1e-20)


def among_groups(scores_TG: Tensor, group_scores_TN: Tensor, groups: int) -> Tensor:
    """Scores of experts in the best `groups` of N groups (DeepSeek V2, V3); the others' become minus infinity."""
    best = group_scores_TN.topk(groups, dim=-1).indices
    inside = torch.zeros_like(group_scores_TN, dtype=torch.bool).scatter(1, best, True)
    size = scores_TG.shape[1] // group_scores_TN.shape[1]
    return scores_TG.masked_fill(~inside.repeat_interleave(size, dim=1), float("-inf"))


class SparseMLP(nn.Module):
    """Router and experts."""

    def __init__(self, build: Build, config: ModelConfig, choose: Choice) -> None:
        super().__init__()
        self.router = Router(build, config)
        self.experts = Experts(build, config)
        self._choose = choose

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.experts(x_TD, *self._choose(self.router(x_TD)))
