"""Experts of transformers' code, computed by our kernels: transformers looks up by name how a mixture is computed, as
it does for attention. Routers, activations and gates stay its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from ramify.layers.build import Build
from ramify.layers.linear import WHOLE
from ramify.layers.moe import GroupedLinear
from ramify.models.generic_attention import OURS, PLACE


def compute(module: nn.Module, x_TD: Tensor, chosen_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """As transformers calls it."""
    return getattr(module, PLACE)(x_TD, chosen_TK, weights_TK)


class OurExperts(nn.Module):
    """In the place of an experts module's weights, which it takes away."""

    def __init__(self, build: Build, module: Any) -> None:
        super().__init__()
        self._kernels, self._gate = build.kernels, module._apply_gate
        self.gate_up = _take(build, module, "gate_up_proj")
        self.down = _take(build, module, "down_proj")
        self._count = module.num_experts

    def forward(self, x_TD: Tensor, chosen_TK: Tensor, weights_TK: Tensor) -> Tensor:
        tokens_R, ends_G, rows_TK = self._kernels.by_expert(chosen_TK, self._count)
        up_RE = self.gate_up(x_TD.index_select(0, tokens_R), ends_G)
        y_RD = self.down(self._gate(up_RE), ends_G)
        return self._kernels.combine(y_RD, rows_TK, weights_TK.to(x_TD.dtype))


def _take(build: Build, module: Any, name: str) -> GroupedLinear:
    weight_GED = getattr(module, name).data
    weight_GED = weight_GED.transpose(1, 2) if module.is_transposed else weight_GED
    groups, outputs, inputs = weight_GED.shape
    made = GroupedLinear(build, groups, inputs, {WHOLE: outputs}, bias=module.has_bias)
    made.accept("weight", WHOLE, weight_GED.flatten(0, 1), name)
    if module.has_bias:
        made.accept("bias", WHOLE, getattr(module, f"{name}_bias").data.flatten(), name)
        setattr(module, f"{name}_bias", None)
    setattr(module, name, None)
    made.loaded()
    return made


def replace_experts(model: PreTrainedModel, build: Build) -> None:
    """All or none, since a model has one way to compute them."""
    found: list[Any] = [module for module in model.modules() if hasattr(module, "is_concatenated")]
    if not found or not all(_fits(module, build.dtype) for module in found):
        return
    ALL_EXPERTS_FUNCTIONS.register(OURS, compute)
    for module in found:
        setattr(module, PLACE, OurExperts(build, module))
        module.config._experts_implementation = OURS


def _fits(module: Any, dtype: torch.dtype) -> bool:
    return (
        module.has_gate
        and not module.has_post_expert_norm
        and isinstance(getattr(module, "num_experts", None), int)
        and getattr(module, "gate_up_proj", None) is not None
        and module.gate_up_proj.dtype is dtype
        and module.gate_up_proj.dim() == 3
        and module.gate_up_proj.shape[0] == module.num_experts
    )
