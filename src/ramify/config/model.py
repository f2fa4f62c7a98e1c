"""A model as its `config.json` describes it, in the field's words and without torch.

Only what native families need is read; a family that needs more reads it from `raw`. Both spellings of transformers 4
and 5 are understood (`rope_theta` and `rope_scaling`, or `rope_parameters`; `torch_dtype` or `dtype`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify.core.errors import StartupError

MAX_CONFIG_BYTES = 4 << 20


@dataclass(frozen=True)
class Rope:
    """Rotary embedding. `kind` is transformers' `rope_type`; `scaling` holds that kind's own numbers."""

    theta: float = 10_000.0
    kind: str = "default"
    scaling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. Sizes in elements, `context` in tokens."""

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
    bos_id: int | None
    eos_ids: tuple[int, ...]
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def kv_bytes_per_token(self) -> int:
        """Elements of K and V over all layers for one position; times the size of an element it is bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim

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
        raise StartupError(f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads")
    if "head_dim" not in raw and hidden % heads:
        raise StartupError(
            f"config.json: hidden_size {hidden} is not a multiple of {heads} heads and head_dim is missing"
        )
    return ModelConfig(
        architecture=architecture,
        vocab=_positive(raw, "vocab_size"),
        hidden=hidden,
        layers=_positive(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_positive(raw, "head_dim", hidden // heads),
        mlp=_positive(raw, "intermediate_size"),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        activation=str(raw.get("hidden_act", "silu")),
        rope=_rope(raw),
        context=_positive(raw, "max_position_embeddings", 2048),
        tied=bool(raw.get("tie_word_embeddings", False)),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        window=_window(raw),
        bos_id=_first_id(raw.get("bos_token_id")),
        eos_ids=_eos_ids(raw, generation or {}),
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


def _rope(raw: dict[str, Any]) -> Rope:
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise StartupError("config.json: rope_scaling should be an object")
    theta = scaling.get("rope_theta", raw.get("rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return Rope(float(theta), str(kind), dict(scaling))


def _window(raw: dict[str, Any]) -> int | None:
    """The attention window in tokens, where the model really uses one."""
    window = raw.get("sliding_window")
    if window is None or raw.get("use_sliding_window") is False:
        return None
    return int(window)


def _first_id(value: Any) -> int | None:
    ids = _ids(value)
    return ids[0] if ids else None


def _eos_ids(raw: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
    """Both files may name some, and both are right: chat models often have one more in the generation config."""
    return tuple(dict.fromkeys(_ids(generation.get("eos_token_id")) + _ids(raw.get("eos_token_id"))))


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]
