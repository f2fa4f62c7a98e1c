"""Which family serves an architecture. A new family is a file, a layout and a line here."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.core.registry import Registry
from ramify.models.layout import Family

FAMILIES: Registry[Family] = Registry(
    "models",
    {
        "LlamaForCausalLM": "ramify.models.layout:LLAMA",
        "MistralForCausalLM": "ramify.models.layout:LLAMA",
        "Qwen2ForCausalLM": "ramify.models.layout:QWEN2",
        "Qwen3ForCausalLM": "ramify.models.layout:QWEN3",
    },
)


def family_of(config: ModelConfig) -> Family:
    """The family of a model, or an error that lists what there is."""
    if config.architecture not in FAMILIES:
        raise StartupError(
            f"the architecture {config.architecture} is not supported",
            f"Supported: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[config.architecture]
