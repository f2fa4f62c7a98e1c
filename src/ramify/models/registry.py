"""Which family serves an architecture. A new family is a file, a layout and a line here."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.config.task import GENERATES, split
from ramify.core.errors import StartupError
from ramify.core.registry import Registry
from ramify.models.heads import headed
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

ENCODERS: Registry[Family] = Registry(
    "encoders",
    {
        "Bert": "ramify.models.encoder_layout:BERT",
        "Roberta": "ramify.models.encoder_layout:ROBERTA",
        "XLMRoberta": "ramify.models.encoder_layout:ROBERTA",
        "Camembert": "ramify.models.encoder_layout:ROBERTA",
        "ModernBert": "ramify.models.encoder_layout:MODERN_BERT",
        "NomicBert": "ramify.models.encoder_layout:NOMIC_BERT",
    },
)


def family_of(config: ModelConfig) -> Family:
    """The family of a model, or an error that lists what there is."""
    if config.head is not None:
        return headed(backbone_of(config), config.head)
    if config.architecture not in FAMILIES:
        raise StartupError(
            f"the architecture {config.architecture} is not supported",
            f"Supported: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[config.architecture]


def backbone_of(config: ModelConfig) -> Family:
    """The family of the hidden states under a head: an encoder, or the decoder that generates under the same name."""
    base, _ = split(config.architecture)
    if config.encoder is not None:
        return ENCODERS[base]
    found = next((base + ending for ending in GENERATES if base + ending in FAMILIES), None)
    if found is None:
        supported = ", ".join([*FAMILIES, *(f"{name}Model" for name in ENCODERS)])
        raise StartupError(
            f"the architecture {config.architecture} is not supported", f"Heads stand on these: {supported}."
        )
    return FAMILIES[found]
