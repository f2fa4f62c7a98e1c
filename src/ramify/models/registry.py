"""Which family serves an architecture. A new family is a file, a layout and a line here."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.config.task import GENERATES, split
from ramify.core.errors import StartupError
from ramify.core.registry import Registry
from ramify.models.heads import headed
from ramify.models.layout import Family

_HERE = "ramify.models.layouts:"
FAMILIES: Registry[Family] = Registry(
    "models",
    {
        "BambaForCausalLM": f"{_HERE}BAMBA",
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
        "GraniteMoeHybridForCausalLM": f"{_HERE}GRANITE_HYBRID",
        "GraniteMoeForCausalLM": f"{_HERE}GRANITE_MOE",
        "LlamaForCausalLM": f"{_HERE}LLAMA",
        "Llama4ForCausalLM": f"{_HERE}LLAMA4",
        "Mamba2ForCausalLM": f"{_HERE}MAMBA2",
        "MistralForCausalLM": f"{_HERE}LLAMA",
        "MixtralForCausalLM": f"{_HERE}MIXTRAL",
        "Olmo2ForCausalLM": f"{_HERE}OLMO2",
        "Olmo3ForCausalLM": f"{_HERE}OLMO2",
        "Phi3ForCausalLM": f"{_HERE}PHI3",
        "Qwen2ForCausalLM": f"{_HERE}QWEN2",
        "Qwen2MoeForCausalLM": f"{_HERE}QWEN2_MOE",
        "Qwen3ForCausalLM": f"{_HERE}QWEN3",
        "Qwen3MoeForCausalLM": f"{_HERE}QWEN3_MOE",
        "Qwen3NextForCausalLM": f"{_HERE}QWEN3_NEXT",
        "SmolLM3ForCausalLM": f"{_HERE}SMOLLM3",
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


# What transformers' code computes brings its own tensors: see `generic_load`.
GENERIC_DECODER = Family("ramify.models.generic:GenericDecoder", lambda config: {})
GENERIC_ENCODER = Family("ramify.models.generic:GenericEncoder", lambda config: {})


def is_native(architecture: str) -> bool:
    """Whether a family computes it, or what stands below its head."""
    base, ending = split(architecture)
    backbones = () if ending == "" else (base + each for each in GENERATES)
    return architecture in FAMILIES or base in ENCODERS or any(name in FAMILIES for name in backbones)


def family_of(config: ModelConfig) -> Family:
    """The family of a model, or an error that lists what there is."""
    if config.generic is not None:
        return GENERIC_DECODER if config.encoder is None else GENERIC_ENCODER
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
