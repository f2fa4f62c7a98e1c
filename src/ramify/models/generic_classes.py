"""The one place that says which code of transformers computes a model: code that is installed, never code that came
with the model. Configurations are read by the installed classes too, and what in them would load or patch code is left
out.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, __version__
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ramify.core.errors import StartupError

RELEASE = f"transformers {__version__}"
TABLES = (
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_MASKED_LM_MAPPING,
    auto.MODEL_MAPPING,
)
# Code of the model's own, files that would be read instead of the weights, and ways to compute that are chosen here.
LEFT_OUT = (
    "auto_map",
    "custom_pipelines",
    "fusion_config",
    "transformers_weights",
    "attn_implementation",
    "experts_implementation",
    "distributed_config",
    "return_dict",
    "use_return_dict",
    "torchscript",
    "output_attentions",
    "output_hidden_states",
)
LAYERS, MOST_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4096
ATTENTION = frozenset({"full_attention", "sliding_attention", "attention"})
SENSES = ("vision_config", "audio_config", "image_config", "video_config", "speech_config")


def config_of(raw: dict[str, Any]) -> PreTrainedConfig:
    """What transformers makes of a `config.json`; raises `StartupError` with the reason why it cannot be served."""
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        own = ", and code that comes with a model is never run" if raw.get("auto_map") else ""
        raise StartupError(f"{RELEASE} has no model_type {kind!r}{own}")
    if raw.get("quantization_config"):
        raise StartupError(
            f"config.json: the checkpoint is quantized, and the code of {RELEASE} is served over bf16, fp16 or fp32",
            "Take the original checkpoint, with --quantization if it should be smaller.",
        )
    for key in LAYERS:  # before a list of so many is made
        if isinstance(raw.get(key), int) and raw[key] > MOST_LAYERS:
            raise StartupError(f"config.json: {key} {raw[key]} is more than any model has")
    given = {key: value for key, value in raw.items() if key not in LEFT_OUT and not key.startswith("_")}
    try:
        config = CONFIG_MAPPING[kind].from_dict(given)
    except Exception as e:  # noqa: BLE001  (every class checks in its own way)
        raise StartupError(f"config.json: {RELEASE} does not take it: {e}") from None
    _refuse(config.to_dict(), str(config.model_type))
    return config


def _refuse(full: dict[str, Any], kind: str) -> None:
    """What no cache here can keep, by what the configuration says."""
    if full.get("is_encoder_decoder"):
        raise StartupError(f"{kind} attends to an encoder (cross attention), which has no cache here")
    if sense := next((key for key in SENSES if full.get(key)), None):
        raise StartupError(f"{kind} takes more than text ({sense}), which is not in this version")
    types = full.get("layer_types") or ()
    strange = sorted({str(each) for each in types if each not in ATTENTION})
    if strange:
        raise StartupError(
            f"{kind} has layers of the type {', '.join(strange)}: neither full attention nor a sliding window, and "
            "there is no cache for the states of transformers' code here"
        )


def class_of(architecture: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of that name, if it is one for this configuration."""
    for table in TABLES:
        found: Any = table.get(type(config), ())
        for each in found if isinstance(found, tuple | list) else (found,):
            if each.__name__ == architecture:
                return _supported(each)
    raise StartupError(f"{RELEASE} has no {architecture} for the model_type {config.model_type!r}")


def _supported(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    if not cls._supports_attention_backend:
        raise StartupError(
            f"{cls.__name__} cannot be served: in {RELEASE} its attention is its own and cannot be replaced by ours "
            "(no attention interface)"
        )
    return cls
