"""A model as its `config.json` describes it, in the field's words and without torch.

Only what native families need is read; a family that needs more reads it from `raw`. Both spellings of transformers 4
and 5 are understood (`rope_theta` and `rope_scaling`, or `rope_parameters`; `torch_dtype` or `dtype`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify.config.head import Encoder, Head
from ramify.core.errors import StartupError

MAX_CONFIG_BYTES = 4 << 20
ACTIVATIONS = ("silu", "swish")  # two names of one function
ROPE_NUMBERS = {  # by type, what has to be there
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding. `kind` is transformers' `rope_type`; `scaling` holds its numbers: `ROPE_NUMBERS`."""

    theta: float = 10_000.0
    kind: str = "default"
    scaling: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder, or of an encoder. Sizes in elements, `context` in tokens. With a `head` the model gives
    vectors or scores and no tokens.
    """

    architecture: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    norm_eps: float
    activation: str
    rope: Rope
    context: int
    tied: bool
    dtype: str
    attention_bias: bool
    mlp_bias: bool
    window: int | None
    eos_ids: tuple[int, ...]
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    head: Head | None = None
    encoder: Encoder | None = None

    @property
    def parameters(self) -> int:
        """Number of weights, up to norms and biases: for the memory plan before anything is loaded."""
        heads = self.heads * self.head_dim * 2 + self.kv_heads * self.head_dim * 2
        layer = self.hidden * heads + 3 * self.hidden * self.mlp + 2 * self.hidden
        return self.layers * layer + self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a model's folder, or a `StartupError` that says what is wrong with it."""
    if not path.is_file():
        raise StartupError(f"{path.parent} has no {path.name}", f"A model folder needs {what}.")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise StartupError(f"{path} is over {MAX_CONFIG_BYTES >> 20} MiB", f"That is not {what}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise StartupError(f"{path} is not valid JSON: {e}", "Copy or download it again.") from None
    if not isinstance(value, dict):
        raise StartupError(f"{path} is not a JSON object", f"It should be {what}.")
    return value


def read_config(folder: Path) -> ModelConfig:
    """The configuration in `folder`, with EOS ids from `generation_config.json` where it has them."""
    raw = read_json(folder / "config.json", "a config.json, as transformers saves it")
    generation = folder / "generation_config.json"
    more = read_json(generation, "a generation config") if generation.is_file() else {}
    return parse_config(raw, more)


def parse_config(raw: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    """From the contents of `config.json` and `generation_config.json`."""
    architecture = _architecture(raw)
    hidden, heads = _positive(raw, "hidden_size"), _positive(raw, "num_attention_heads")
    kv_heads = _positive(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise StartupError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    vocab = _positive(raw, "vocab_size")
    return ModelConfig(
        architecture=architecture,
        vocab=vocab,
        hidden=hidden,
        layers=_positive(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(raw, hidden, heads),
        mlp=_positive(raw, "intermediate_size"),
        norm_eps=_above_zero(raw, "rms_norm_eps", 1e-6),
        activation=_activation(raw),
        rope=_rope(raw),
        context=_positive(raw, "max_position_embeddings", 2048),
        tied=_flag(raw, "tie_word_embeddings"),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        attention_bias=_flag(raw, "attention_bias"),
        mlp_bias=_flag(raw, "mlp_bias"),
        window=_window(raw),
        eos_ids=_eos_ids(raw, generation or {}, vocab),
        raw=raw,
    )


def _architecture(raw: dict[str, Any]) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise StartupError("config.json names no architecture", 'It needs "architectures": ["..."].')
    return names[0]


def _positive(raw: dict[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise StartupError(f"config.json: {key} should be a positive integer and is {value!r}")
    return value


def _above_zero(raw: dict[str, Any], key: str, default: float | None = None, where: str = "") -> float:
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise StartupError(f"config.json: {where}{key} should be a number above 0 and is {value!r}")
    return float(value)


def _flag(raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise StartupError(f"config.json: {key} should be true or false and is {value!r}")
    return bool(value)


def _head_dim(raw: dict[str, Any], hidden: int, heads: int) -> int:
    if raw.get("head_dim") is None and hidden % heads:
        raise StartupError(
            f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}, and head_dim is missing"
        )
    size = _positive(raw, "head_dim", hidden // heads)
    if size % 2:
        raise StartupError(f"config.json: a head_dim of {size} is odd, and rotary embedding takes pairs")
    return size


def _activation(raw: dict[str, Any]) -> str:
    name = raw.get("hidden_act", "silu")
    if name not in ACTIVATIONS:
        raise StartupError(
            f"config.json: hidden_act {name!r} is not supported", f"Supported: {', '.join(ACTIVATIONS)}."
        )
    return str(name)


def _rope(raw: dict[str, Any]) -> Rope:
    where = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    scaling = raw.get(where) or {}
    if not isinstance(scaling, dict):
        raise StartupError(f"config.json: {where} should be an object")
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind is None and "factor" in scaling:
        raise StartupError(f"config.json: {where} has a factor and no rope_type")
    kind = kind or "default"
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        raise StartupError(
            f"config.json: {where} of the type {kind!r} is not supported",
            f"Supported are {', '.join(ROPE_NUMBERS)}. Where the model works unscaled up to its original context, "
            f"take {where} out of config.json and set --context-length to that.",
        )
    numbers = {key: _above_zero(scaling, key, where=f"{where}.") for key in ROPE_NUMBERS[kind]}
    if kind == "llama3" and numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise StartupError(f"config.json: {where}.high_freq_factor should be above low_freq_factor")
    theta = _above_zero(scaling if "rope_theta" in scaling else raw, "rope_theta", 10_000.0)
    return Rope(theta, kind, numbers)


def _window(raw: dict[str, Any]) -> int | None:
    """The attention window in tokens, where the model really uses one."""
    if raw.get("sliding_window") is None or raw.get("use_sliding_window") is False:
        return None
    return _positive(raw, "sliding_window")


def _eos_ids(raw: dict[str, Any], generation: dict[str, Any], vocab: int) -> tuple[int, ...]:
    """Both files may name some, and both are right: chat models often have one more in the generation config."""
    named = _ids(generation, "generation_config.json", vocab) + _ids(raw, "config.json", vocab)
    return tuple(dict.fromkeys(named))


def _ids(raw: dict[str, Any], file: str, vocab: int) -> list[int]:
    """The ids of `eos_token_id`; none where it is null or negative."""
    value = raw.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    for token in values:
        if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token >= vocab):
            raise StartupError(
                f"{file}: eos_token_id {token!r} is not a token of this model, which has {vocab}",
                "Correct it there, or take it out.",
            )
    return [token for token in values if token is not None and token >= 0]
