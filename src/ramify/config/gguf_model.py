"""From the metadata of a GGUF file to what a `config.json` of transformers would say."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ramify.config.fields import Raw, is_number
from ramify.config.gguf import Header, read_header
from ramify.core.errors import StartupError

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FACTORS = "rope_freqs.weight"  # Llama 3.1: frequencies are divided by these
MOST_FACTORS = 1 << 12
GEMMA_27B = {"gemma2": 46, "gemma3": 62}  # layers of those whose scores are scaled by hidden size / heads


def gguf_config(file: Path) -> Raw:
    """Raises `StartupError` with the name of what is missing or wrong."""
    header = read_header(file)
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise StartupError(
            f"{file}: general.architecture {architecture!r:.80} is not supported in GGUF",
            f"Supported: {', '.join(ARCHITECTURES)}. Others can be served from safetensors.",
        )
    found = _Found(header, architecture)
    raw = _common(found)
    ARCHITECTURES[architecture](found, raw)
    types = Counter[str]()
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            types[tensor.type] += math.prod(tensor.shape)
    if types.keys() <= FLOATS.keys():
        return {**raw, "torch_dtype": FLOATS[types.most_common(1)[0][0]]}
    return {**raw, "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "gguf", "counts": dict(types)}}


class _Found:
    """Values of the metadata, checked as they are taken. Keys are those of the architecture."""

    def __init__(self, header: Header, architecture: str) -> None:
        self.header, self.architecture = header, architecture

    def value(self, key: str) -> Any:
        return self.header.metadata.get(f"{self.architecture}.{key}")

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number; a list of equal ones counts as that."""
        value = self.value(key)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self.wrong(key, value, "a positive whole number, the same for all layers")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key)
        value = default if value is None else value
        if not is_number(value) or not 0 < value < math.inf:
            raise self.wrong(key, value, "a number above 0")
        return float(value)

    def wrong(self, key: str, value: Any, wanted: str) -> StartupError:
        return StartupError(f"{self.header.file}: {self.architecture}.{key} is {value!r:.80}, and should be {wanted}")

    def token(self, name: str) -> int | None:
        value = self.header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise StartupError(f"{self.header.file}: tokenizer.ggml.{name}_token_id is {value!r:.80}")
        return value


def _common(found: _Found) -> Raw:
    embedding = found.header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise StartupError(f"{found.header.file} has no matrix token_embd.weight")
    hidden, heads = found.whole("embedding_length"), found.whole("attention.head_count")
    size = found.whole("attention.key_length", hidden // heads or 1)
    if found.whole("attention.value_length", size) != size:
        raise found.wrong("attention.value_length", found.value("attention.value_length"), f"{size}, that of keys")
    if (turned := found.whole("rope.dimension_count", size)) != size:
        raise found.wrong("rope.dimension_count", turned, f"{size}, a whole head")
    ends = dict.fromkeys(token for name in ("eos", "eot", "eom") if (token := found.token(name)) is not None)
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": found.whole("attention.head_count_kv", heads),
        "head_dim": size,
        "num_hidden_layers": found.whole("block_count"),
        "intermediate_size": found.whole("feed_forward_length"),
        "max_position_embeddings": found.whole("context_length"),
        "rms_norm_eps": found.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in found.header.tensors,
        "rope_theta": found.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope(found),
        "eos_token_id": list(ends) or None,
    }


def _rope(found: _Found) -> Raw | None:
    if FACTORS in found.header.tensors:
        return _factors(found)
    kind = found.value("rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise found.wrong("rope.scaling.type", kind, "none, linear or yarn")
    scaling: Raw = {"rope_type": kind, "factor": found.number("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = found.whole("rope.scaling.original_context_length")
    return scaling


def _factors(found: _Found) -> Raw:
    """One per pair, for short contexts and long ones alike."""
    tensor = found.header.tensors[FACTORS]
    if tensor.type != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > MOST_FACTORS:
        raise StartupError(f"{found.header.file}: {FACTORS} should be a row of numbers in F32")
    with found.header.file.open("rb") as opened:
        opened.seek(tensor.first)
        factors = list(struct.unpack(f"<{tensor.shape[0]}f", opened.read(tensor.size)))
    context = found.whole("context_length")
    scaling = {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0}
    return {
        **scaling,
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": context,
    }


# -- architectures -----------------------------------------------------------------------------------------------------


def _llama(found: _Found, raw: Raw) -> None:
    raw["architectures"] = ["LlamaForCausalLM"]
    if found.value("expert_count"):
        raw |= {
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": found.whole("expert_count"),
            "num_experts_per_tok": found.whole("expert_used_count"),
            "sliding_window": None,
        }
    if any(name.endswith("attn_q.bias") for name in found.header.tensors):
        raw["attention_bias"] = True


def _named(architecture: str) -> Callable[[_Found, Raw], None]:
    def name(found: _Found, raw: Raw) -> None:
        raw["architectures"] = [architecture]

    return name


def _qwen3moe(found: _Found, raw: Raw) -> None:
    raw |= {
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": found.whole("expert_count"),
        "num_experts_per_tok": found.whole("expert_used_count"),
        "moe_intermediate_size": found.whole("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _gemma(found: _Found, raw: Raw) -> None:
    raw |= {"architectures": ["GemmaForCausalLM"], "hidden_activation": "gelu_pytorch_tanh"}


def _gemma_with_windows(found: _Found, raw: Raw) -> None:
    version = found.architecture[-1]
    narrow = raw["num_hidden_layers"] != GEMMA_27B[found.architecture]
    raw |= {
        "architectures": [f"Gemma{version}ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": found.whole("attention.sliding_window"),
        "query_pre_attn_scalar": raw["head_dim"] if narrow else raw["hidden_size"] // raw["num_attention_heads"],
    }
    for key, name in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ):
        raw[name] = found.number(key) if found.value(key) is not None else None
    if version == "3":
        raw["rope_local_base_freq"] = found.number("rope.freq_base_swa", 10000.0)


ARCHITECTURES: dict[str, Callable[[_Found, Raw], None]] = {
    "llama": _llama,
    "qwen2": _named("Qwen2ForCausalLM"),
    "qwen3": _named("Qwen3ForCausalLM"),
    "qwen3moe": _qwen3moe,
    "gemma": _gemma,
    "gemma2": _gemma_with_windows,
    "gemma3": _gemma_with_windows,
}
