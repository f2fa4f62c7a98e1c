"""A backbone with a head on it: hidden states as ever, and what becomes of them once they are pooled."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.head import PooledHead
from ramify.models.registry import backbone_of


class Headed(nn.Module):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        module, _, name = backbone_of(config).code.partition(":")
        self.backbone = getattr(import_module(module), name)(build, config)
        self.head = PooledHead(build, config)

    def forward(self, batch: Any) -> Tensor:
        """Hidden states [T, D] of a step."""
        return self.backbone(batch)

    def logits(self, x_TD: Tensor) -> Tensor:
        raise AssertionError("a model with a head gives no tokens")
