"""Rotary position embedding: the angles of a step, and the ways in which models stretch them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ramify.config.model import Rope
from ramify.layers.build import Build


class RotaryEmbedding(nn.Module):
    """cos and sin [T, C / 2] of given positions, computed in fp32 once per step and shared by all layers."""

    frequencies_R: Tensor

    def __init__(self, build: Build, head_dim: int, rope: Rope) -> None:
        super().__init__()
        self._dtype = build.dtype
        frequencies = _scaled(_frequencies(head_dim, rope.theta), rope)
        self.register_buffer("frequencies_R", frequencies.to(build.device), persistent=False)

    def forward(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        angles_TR = positions_T[:, None].float() * self.frequencies_R
        return angles_TR.cos().to(self._dtype), angles_TR.sin().to(self._dtype)


def _frequencies(head_dim: int, theta: float) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)


def _scaled(frequencies: Tensor, rope: Rope) -> Tensor:
    if rope.kind == "default":
        return frequencies
    if rope.kind == "linear":
        return frequencies / rope.scaling["factor"]
    assert rope.kind == "llama3", "the types are those of `config.model.ROPE_NUMBERS`"
    return _llama3(frequencies, rope.scaling)


def _llama3(frequencies: Tensor, scaling: dict[str, float]) -> Tensor:
    """Llama 3.1: long waves are slowed by `factor`, short ones kept, and those between blended."""
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi / frequencies
    blend = ((context / waves - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / factor + blend * frequencies
