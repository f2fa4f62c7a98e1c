"""SmolLM3: Llama, some of whose layers do not rotate queries and keys (Bakouch et al. 2025)."""

from __future__ import annotations

from ramify.config.fields import positive, sequence
from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.models.llama import Llama


class SmolLM3(Llama):
    def rope(self, config: ModelConfig, layer: int) -> Rope | None:
        return config.rope if rotates(config)[layer] else None


def rotates(config: ModelConfig) -> list[bool]:
    """For each layer; `no_rope_layers` has a 1 where one does. By default every fourth does not."""
    given = sequence(config.raw, "no_rope_layers", config.layers, (int,))
    every = positive(config.raw, "no_rope_layer_interval", 4)
    return [bool(each) for each in given or [(layer + 1) % every for layer in range(config.layers)]]
