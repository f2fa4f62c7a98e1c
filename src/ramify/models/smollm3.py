"""SmolLM3: Llama, some of whose layers do not rotate queries and keys (Bakouch et al. 2025)."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope, rotating
from ramify.models.llama import Llama


class SmolLM3(Llama):
    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return config.rope if rotates(config)[layer] else None


def rotates(config: ModelConfig) -> list[bool]:
    """For each layer."""
    return rotating(config.raw, config.layers)
