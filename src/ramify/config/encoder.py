"""Encoders as their `config.json` describes them: attention in both directions, nothing kept between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ramify.config.fields import above_zero, flag, positive
from ramify.config.head import Encoder
from ramify.config.model import ModelConfig, activation
from ramify.config.rope import Rope, read_ropes
from ramify.core.errors import StartupError

GATED = ("ModernBert", "NomicBert")  # activation(gate) * up, in place of activation(x)
# nomic's first names, and transformers'
NOMIC = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
    "activation_function": "hidden_act",
}
NOMIC_ONLY = {  # what its own code can do and was never trained to
    "prenorm": (False,),
    "rotary_emb_fraction": (1, 1.0),
    "rotary_emb_interleaved": (False,),
    "rotary_scaling_factor": (),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "use_rms_norm": (False,),
    "num_experts": (0,),
}


def is_encoder(base: str) -> bool:
    """By the name of an architecture, without what is done with it."""
    return base in READERS


def parse_encoder(base: str, architecture: str, raw: dict[str, Any]) -> ModelConfig:
    """From the contents of `config.json`; raises `StartupError` for what is not supported."""
    raw = _in_usual_names(raw) if base == "NomicBert" else raw
    hidden, heads = positive(raw, "hidden_size"), positive(raw, "num_attention_heads")
    if hidden % heads:
        raise StartupError(f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    encoder, rope = READERS[base](raw)
    return ModelConfig(
        architecture=architecture,
        vocab=positive(raw, "vocab_size"),
        hidden=hidden,
        layers=positive(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        mlp=positive(raw, "intermediate_size"),
        norm_eps=above_zero(raw, "norm_eps" if base == "ModernBert" else "layer_norm_eps", 1e-5),
        activation=activation(raw, "hidden_activation" if base == "ModernBert" else "hidden_act", "gelu"),
        rope=rope,
        context=encoder.positions - encoder.first or positive(raw, "max_position_embeddings"),
        tied=True,
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        attention_bias=flag(raw, "attention_bias") if base in GATED else True,
        mlp_bias=flag(raw, "mlp_bias") if base in GATED else True,
        window=None,
        eos_ids=(),
        raw=raw,
        encoder=encoder,
    )


def _bert(raw: dict[str, Any]) -> tuple[Encoder, Rope]:
    _only_absolute(raw)
    return Encoder(
        positions=positive(raw, "max_position_embeddings"), types=positive(raw, "type_vocab_size", 2)
    ), Rope()


def _roberta(raw: dict[str, Any]) -> tuple[Encoder, Rope]:
    """Positions are counted from behind the id of padding, as fairseq did."""
    _only_absolute(raw)
    first = int(raw.get("pad_token_id", 1) or 0) + 1
    positions = positive(raw, "max_position_embeddings")
    if not 0 < first < positions:
        raise StartupError(f"config.json: pad_token_id {first - 1} leaves no positions of {positions}")
    return Encoder(positions=positions, first=first, types=positive(raw, "type_vocab_size", 1)), Rope()


def _only_absolute(raw: dict[str, Any]) -> None:
    kind = raw.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise StartupError(f"config.json: position_embedding_type {kind!r} is not supported", "Only absolute is.")


def _modern(raw: dict[str, Any]) -> tuple[Encoder, Rope]:
    """ModernBERT: every third layer sees the whole text, the others a window."""
    layers = positive(raw, "num_hidden_layers")
    every = positive(raw, "global_attn_every_n_layers", 3)
    kinds = raw.get("layer_types") or ["sliding_attention" if at % every else "full_attention" for at in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise StartupError(f"config.json: layer_types should be a list of {layers} names")
    encoder = Encoder(
        norm_bias=flag(raw, "norm_bias"),
        local=frozenset(at for at, kind in enumerate(kinds) if kind == "sliding_attention"),
        window=positive(raw, "local_attention", 128) // 2,
        local_theta=_theta(raw, "sliding_attention", "local_rope_theta", 10_000.0),
    )
    return encoder, Rope(_theta(raw, "full_attention", "global_rope_theta", 160_000.0))


def _theta(raw: dict[str, Any], kind: str, old: str, default: float) -> float:
    """Transformers 5 has parameters of rotation by the kind of layer, transformers 4 a number for each."""
    found = (raw.get("rope_parameters") or {}).get(kind) or {}
    if found.get("rope_type", "default") != "default":
        raise StartupError(f"config.json: rope_parameters.{kind} of the type {found['rope_type']!r} is not supported")
    return above_zero(found, "rope_theta") if "rope_theta" in found else above_zero(raw, old, default)


def _nomic(raw: dict[str, Any]) -> tuple[Encoder, Rope]:
    return Encoder(types=positive(raw, "type_vocab_size", 2)), read_ropes({"rope_theta": 1000.0, **raw}, 0)[0]


def _in_usual_names(raw: dict[str, Any]) -> dict[str, Any]:
    """nomic's first configurations describe more than was ever published; what differs is refused by name."""
    for key, allowed in NOMIC_ONLY.items():
        if raw.get(key) is not None and raw[key] not in allowed:
            raise StartupError(f"config.json: {key} of {raw[key]!r} is not supported")
    found = {NOMIC.get(key, key): value for key, value in raw.items()}
    if found.get("hidden_act", "swiglu") == "swiglu":
        found["hidden_act"] = "silu"
    return {"layer_norm_eps": 1e-12, **found}


READERS: dict[str, Callable[[dict[str, Any]], tuple[Encoder, Rope]]] = {
    "Bert": _bert,
    "Roberta": _roberta,
    "XLMRoberta": _roberta,
    "Camembert": _roberta,
    "ModernBert": _modern,
    "NomicBert": _nomic,
}
