"""Which family serves an architecture. A new family is a file, a layout and a line here."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.core.registry import Registry
from ramify.models.layout import Family

_HERE = "ramify.models.layouts:"
FAMILIES: Registry[Family] = Registry(
    "models",
    {
        "Cohere2ForCausalLM": f"{_HERE}COHERE2",
        "CohereForCausalLM": f"{_HERE}COHERE",
        "DeepseekV2ForCausalLM": f"{_HERE}DEEPSEEK_V2",
        "DeepseekV3ForCausalLM": f"{_HERE}DEEPSEEK_V3",
        "GPT2LMHeadModel": f"{_HERE}GPT2",
        "Gemma2ForCausalLM": f"{_HERE}GEMMA2",
        "Gemma3ForCausalLM": f"{_HERE}GEMMA3",
        "GemmaForCausalLM": f"{_HERE}GEMMA",
        "Glm4ForCausalLM": f"{_HERE}GLM4",
        "Glm4MoeForCausalLM": f"{_HERE}GLM4_MOE",
        "GlmForCausalLM": f"{_HERE}GLM",
        "GptOssForCausalLM": f"{_HERE}GPT_OSS",
        "GraniteForCausalLM": f"{_HERE}GRANITE",
        "GraniteMoeForCausalLM": f"{_HERE}GRANITE_MOE",
        "LlamaForCausalLM": f"{_HERE}LLAMA",
        "MistralForCausalLM": f"{_HERE}LLAMA",
        "MixtralForCausalLM": f"{_HERE}MIXTRAL",
        "Olmo2ForCausalLM": f"{_HERE}OLMO2",
        "Olmo3ForCausalLM": f"{_HERE}OLMO2",
        "Phi3ForCausalLM": f"{_HERE}PHI3",
        "Qwen2ForCausalLM": f"{_HERE}QWEN2",
        "Qwen2MoeForCausalLM": f"{_HERE}QWEN2_MOE",
        "Qwen3ForCausalLM": f"{_HERE}QWEN3",
        "Qwen3MoeForCausalLM": f"{_HERE}QWEN3_MOE",
        "SmolLM3ForCausalLM": f"{_HERE}SMOLLM3",
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
