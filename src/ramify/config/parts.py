"""Checkpoints of models that see or hear beside what they read: their language model alone, which is served here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ramify.core.errors import StartupError

PART_OF = "part_of"  # in a configuration that was taken out of another: the architecture that this one had
CONFIGS = ("text_config", "llm_config", "language_config")
LANGUAGE = {  # the language model of an architecture, by its own name; None: as the model_type of its part says
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "LlavaForConditionalGeneration": None,
    "LlavaNextForConditionalGeneration": None,
    "Mistral3ForConditionalGeneration": None,
    "Qwen2VLForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3MoeForCausalLM",
}
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
TIED = "tie_word_embeddings"  # the head is the whole model's
SHARED = ("quantization_config", "eos_token_id", "dtype", "torch_dtype", "transformers_version")
NAMES = (  # how the tensors of a language model are called, and how they would be if it stood alone
    (re.compile(r"^(model\.)?language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^language_model\.model\."), "model."),
    (re.compile(r"^model\.language_model\.(model\.)?"), "model."),
)
OTHERS = re.compile(
    r"^(model\.)?(visual|vision_tower|vision_model|vision_embed_tokens|multi_modal_projector|audio_tower|image_newline"
    r"|embed_vision|embed_audio)(\.|$)"
)


def language_part(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model in a larger one; any other as it is."""
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if name not in LANGUAGE:
        return raw
    part = next((raw[key] for key in CONFIGS if isinstance(raw.get(key), dict)), None)
    if part is None and LANGUAGE[name] is not None and "hidden_size" in raw:
        part = raw  # older files of Qwen2-VL have everything in one
    if part is None:
        raise StartupError(f"config.json: {name} has no {CONFIGS[0]}", "It says what its language model is.")
    architecture = LANGUAGE[name] or MODEL_TYPES.get(str(part.get("model_type")))
    if architecture is None:
        known = ", ".join(MODEL_TYPES)
        raise StartupError(
            f"config.json: the language model of {name} is {part.get('model_type')!r}, which is not served as a part",
            f"Served are: {known}.",
        )
    shared = {key: raw[key] for key in SHARED if key in raw and part.get(key) is None}
    tied = {TIED: raw[TIED]} if raw.get(TIED) is not None else {}
    return {**part, **shared, **tied, "architectures": [architecture], PART_OF: name}


def language_tensors(names: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, str]:
    """From the names of a checkpoint's tensors to what they are called in the language model; others are left out."""
    if PART_OF not in raw:
        return {name: name for name in names}
    return {name: _alone(name) for name in names if not OTHERS.match(name)}


def _alone(name: str) -> str:
    for pattern, ours in NAMES:
        if pattern.match(name):
            return pattern.sub(ours, name)
    return name
