"""Rotary position embedding: the angles of a step, and the ways in which models stretch them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ramify.config.rope import AXES, Rope
from ramify.layers.build import Build


class Angles(NamedTuple):
    """Of T positions and R pairs."""

    cos_TR: Tensor
    sin_TR: Tensor


class RotaryEmbedding(nn.Module):
    """cos and sin of given positions, computed in fp32 once per step and shared by the layers that turn alike. They are
    rounded to the type of the model, whatever the type in which kernels take them.

    Some ways to stretch depend on how long a text may get. That is the context that is served, not the length of a
    request at the moment: what is cached of a prefix must stay right while the text grows.

    Positions are [T], or [3, T] where the rotation has sections: of time, height and width.
    """

    frequencies_R: Tensor
    axes_R: Tensor

    def __init__(self, build: Build, size: int, rope: Rope) -> None:
        super().__init__()
        self._dtype, self._given = build.dtype, build.kernels.angles or build.dtype
        frequencies_R, self._scale = scaled(_frequencies(rope.rotated(size), rope.theta), rope, build.context)
        self.register_buffer("frequencies_R", frequencies_R.to(build.device), persistent=False)
        self.register_buffer("axes_R", _axes(rope, len(frequencies_R)).to(build.device), persistent=False)

    def forward(self, positions: Tensor) -> Angles:
        positions_TR = positions[:, None] if positions.dim() == 1 else positions[self.axes_R].T
        angles_TR = positions_TR.float() * self.frequencies_R
        cos_TR, sin_TR = (f(angles_TR).mul_(self._scale).to(self._dtype) for f in (torch.cos, torch.sin))
        return Angles(cos_TR.to(self._given), sin_TR.to(self._given))


class NoRotation(nn.Module):
    """Of layers that do not turn queries and keys (NoPE: Kazemnejad et al. 2023)."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self._given = build.kernels.angles or build.dtype

    def forward(self, positions_T: Tensor) -> Angles:
        empty = torch.empty(len(positions_T), 0, dtype=self._given, device=positions_T.device)
        return Angles(empty, empty)


def _axes(rope: Rope, pairs: int) -> Tensor:
    """Which of the three positions turns each pair."""
    if not rope.sections:
        return torch.zeros(pairs, dtype=torch.int64)
    assert sum(rope.sections) == pairs, "layouts check it"
    if not rope.alternating:
        return torch.arange(AXES).repeat_interleave(torch.tensor(rope.sections))
    axes_R = torch.zeros(pairs, dtype=torch.int64)
    for axis in range(1, AXES):
        axes_R[axis : AXES * rope.sections[axis] : AXES] = axis
    return axes_R


def _frequencies(size: int, theta: float) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)


def scaled(frequencies_R: Tensor, rope: Rope, context: int) -> tuple[Tensor, float]:
    """Stretched frequencies, and what cos and sin are multiplied by."""
    match rope.kind:
        case (
            "default" | "dynamic"
        ):  # dynamic scaling begins beyond the context that the model names, and none is served
            return frequencies_R, 1.0
        case "linear":
            return frequencies_R / rope.scaling["factor"], 1.0
        case "llama3":
            return _llama3(frequencies_R, rope.scaling), 1.0
        case "yarn":
            return _yarn(frequencies_R, rope), _yarn_attention(rope.scaling)
    assert rope.kind == "longrope", "the types are those of `config.rope.ROPE_NUMBERS`"
    return _longrope(frequencies_R, rope, context)


def _llama3(frequencies: Tensor, scaling: dict[str, float]) -> Tensor:
    """Llama 3.1: long waves are slowed by `factor`, short ones kept, and those between blended."""
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi / frequencies
    blend = ((context / waves - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / factor + blend * frequencies


def _yarn(frequencies: Tensor, rope: Rope) -> Tensor:
    """YaRN (Peng et al. 2023): pairs that turn often within the original context are kept, slow ones interpolated."""
    scaling, pairs = rope.scaling, len(frequencies)
    context = scaling["original_max_position_embeddings"]

    def pair_of(turns: float) -> float:
        """The pair that turns that often within the original context."""
        return pairs * math.log(context / (turns * 2 * math.pi)) / math.log(rope.theta)

    low, high = pair_of(scaling.get("beta_fast", 32)), pair_of(scaling.get("beta_slow", 1))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    slow = ((torch.arange(pairs).float() - low) / max(high - low, 1e-3)).clamp(0, 1)
    return frequencies / scaling["factor"] * slow + frequencies * (1 - slow)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn_attention(scaling: dict[str, float]) -> float:
    if "attention_factor" in scaling:
        return scaling["attention_factor"]
    factor, one, all_dim = scaling["factor"], scaling.get("mscale"), scaling.get("mscale_all_dim")
    if one and all_dim:
        return yarn_mscale(factor, one) / yarn_mscale(factor, all_dim)
    return yarn_mscale(factor)


def _longrope(frequencies: Tensor, rope: Rope, context: int) -> tuple[Tensor, float]:
    """LongRoPE (Ding et al. 2024): each pair has a factor of its own, one for short contexts and one for long ones."""
    original = rope.scaling["original_max_position_embeddings"]
    factors = torch.tensor(rope.long if context > original else rope.short)
    assert len(factors) == len(frequencies), "the layout of the family checks it"
    factor = rope.scaling["factor"]
    scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return frequencies / factors, rope.scaling.get("attention_factor", scale)
