"""References of what a mixture of experts needs. Suffixes: see `ops.kernels`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.ops.reference import basic
from ramify.ops.routing import Routing

Activate = Callable[[Tensor, str], Tensor]


def route(
    logits_TG: Tensor, correction_G: Tensor | None, routing: Routing, activate: Activate = basic.activate
) -> tuple[Tensor, Tensor]:
    """Torch's own sigmoid may depend on what is computed beside it, so that platforms bring theirs."""
    scores_TG = _scores(logits_TG, routing, activate)
    rated_TG = scores_TG if correction_G is None else scores_TG + correction_G
    if routing.best_groups < routing.groups:
        rated_TG = _among_groups(rated_TG, routing)
    best_TK, chosen_TK = rated_TG.topk(routing.chosen, dim=-1)
    weights_TK = best_TK if correction_G is None else scores_TG.gather(1, chosen_TK)
    weights_TK = _weights(weights_TK, routing, activate)
    return (weights_TK if routing.scale == 1.0 else weights_TK * routing.scale), chosen_TK


def _scores(logits_TG: Tensor, routing: Routing, activate: Activate) -> Tensor:
    if routing.score == "softmax":
        return logits_TG.softmax(-1)
    return activate(logits_TG, "sigmoid") if routing.score == "sigmoid" else logits_TG


def _weights(best_TK: Tensor, routing: Routing, activate: Activate) -> Tensor:
    match routing.after:
        case "softmax":
            return best_TK.softmax(-1)
        case "sigmoid":
            return activate(best_TK, "sigmoid")
        case "sum":
            return _normalised(best_TK)
    return best_TK


def _normalised(weights_TK: Tensor) -> Tensor:
    """Scaled to sum to 1, summed in the order of the choice."""
    total_T1 = weights_TK[:, :1]
    for k in range(1, weights_TK.shape[1]):
        total_T1 = total_T1 + weights_TK[:, k : k + 1]
    return weights_TK / (total_T1 + 1e-20)


def _among_groups(scores_TG: Tensor, routing: Routing) -> Tensor:
    """Scores of experts in the best groups (DeepSeek V2, V3); the others' become minus infinity."""
    best_TNP = scores_TG.unflatten(1, (routing.groups, -1)).topk(routing.pooled, dim=-1).values
    rated_TN = best_TNP[..., 0] if routing.pooled == 1 else best_TNP[..., 0] + best_TNP[..., 1]
    best_TM = rated_TN.topk(routing.best_groups, dim=-1).indices
    inside_TN = torch.zeros_like(rated_TN, dtype=torch.bool).scatter(1, best_TM, True)
    size = scores_TG.shape[1] // routing.groups
    return scores_TG.masked_fill(~inside_TN.repeat_interleave(size, dim=1), float("-inf"))


def by_expert(chosen_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    flat = chosen_TK.flatten()
    order_R = flat.argsort(stable=True)
    counts_G = torch.zeros(count, dtype=torch.int64, device=flat.device)
    ends_G = counts_G.index_add_(0, flat, torch.ones_like(flat)).cumsum(0)
    rows = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    return order_R // chosen_TK.shape[1], ends_G, rows.view_as(chosen_TK)


def grouped_linear(x_RD: Tensor, weight_GED: Tensor, bias_GE: Tensor | None, ends_G: Tensor) -> Tensor:
    """Rows that are sorted by group, each multiplied by the weight of its group."""
    ends = ends_G.tolist()
    parts = [
        F.linear(x_RD[first:end], weight_GED[group], None if bias_GE is None else bias_GE[group])
        for group, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
    ]
    return torch.cat(parts)


def combine(y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """The weighted sum of the rows of each token, in fp32."""
    return (y_RD[rows_TK].float() * weights_TK.float()[..., None]).sum(1).to(y_RD.dtype)
