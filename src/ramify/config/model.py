"""A model as its `config.json` describes it, in the field's words and without torch.

Both spellings of transformers 4 and 5 are understood (`rope_theta` and `rope_scaling`, or `rope_parameters`;
`torch_dtype` or `dtype`). What a family needs beyond the shape of a decoder is named in its dialect.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify.config.dialects import ARITHMETIC, Dialect, dialect_of
from ramify.config.fields import above_zero, choice, flag, is_number, positive, sequence
from ramify.config.generic import Generic
from ramify.config.gguf import is_gguf
from ramify.config.gguf_model import gguf_config
from ramify.config.head import Encoder, Head
from ramify.config.parts import language_part
from ramify.config.rope import CHUNKED, FULL, SLIDING, Rope, read_ropes, rotating
from ramify.core.errors import StartupError

MAX_CONFIG_BYTES = 4 << 20
ACTIVATIONS = {  # other names of a function -> the name used here
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
NOTHING_KEPT = (1, 16, 16)  # the form of a pool without layers
ATTENDING, RECURRENT = (FULL, "attention"), ("linear_attention", "mamba")  # kinds of layers of a hybrid
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts. Of `count` experts `chosen` compute a token, each of the width `mlp`; all tokens go through
    shared ones of the width `shared` (0: there are none). `sparse` says which layers have experts at all.
    """

    count: int
    chosen: int
    mlp: int
    shared: int
    sparse: tuple[bool, ...]


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek V2): the ranks of what K and V, and queries, are compressed to (None:
    queries are not), and the sizes of a head: without rotation, with it, of its values.
    """

    kv_rank: int
    q_rank: int | None
    plain: int
    rotated: int
    value: int


@dataclass(frozen=True)
class Recurrent:
    """Layers that keep a state instead of positions: the selective scan of Mamba 2 (`ssd`) or the gated delta rule
    (`delta`). Each of `heads` keeps a matrix of the sizes of its `value` and its `key`; heads share keys in `groups`.
    `conv` is the width of the convolution before, `limits` those of the steps of `ssd`. `layers` says which layers they
    are.
    """

    kind: str
    heads: int
    value: int
    key: int
    groups: int
    conv: int
    limits: tuple[float, float]
    layers: tuple[bool, ...]

    @property
    def inner(self) -> int:
        """Elements of all values of a token."""
        return self.heads * self.value

    @property
    def channels(self) -> int:
        """What the convolution goes over: values, and keys twice, for writing and for reading."""
        return self.inner + 2 * self.groups * self.key

    @property
    def matrix(self) -> tuple[int, int]:
        """As it is stored: what sums run over is last."""
        return (self.value, self.key) if self.kind == "ssd" else (self.key, self.value)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder, or of an encoder. Sizes in elements, `context` in tokens. With a `head` the model gives
    vectors or scores and no tokens.

    Layers that `windowed` names see `window` positions, themselves included, and turn by `local_rope`. Those that
    `chunked` names see what is in their own of the chunks of `chunk` positions. `numbers` holds what else the family
    reads (see `config.dialects`). With `generic` transformers' code computes the model, and what only families read
    says nothing.
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
    local_rope: Rope = field(default_factory=Rope)
    windowed: tuple[bool, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    experts: Experts | None = None
    latent: Latent | None = None
    recurrent: Recurrent | None = None
    generic: Generic | None = None
    chunk: int | None = None
    chunked: tuple[bool, ...] = ()

    def window_of(self, layer: int) -> int | None:
        """How far back a layer sees; None: to the beginning."""
        return self.window if self.windowed[layer] else None

    def chunk_of(self, layer: int) -> int | None:
        """The size of the chunks that a layer sees; None: no chunks."""
        return self.chunk if self.chunk is not None and self.chunked[layer] else None

    def rope_of(self, layer: int) -> Rope:
        return self.local_rope if self.windowed[layer] else self.rope

    def is_sparse(self, layer: int) -> bool:
        return self.experts is not None and self.experts.sparse[layer]

    def is_recurrent(self, layer: int) -> bool:
        return self.recurrent is not None and self.recurrent.layers[layer]

    @property
    def attending(self) -> int:
        """How many layers attend."""
        return self.layers - (sum(self.recurrent.layers) if self.recurrent is not None else 0)

    @property
    def softcapped(self) -> bool:
        """Scores are held below a cap."""
        if self.generic is not None:
            return self.generic.softcap
        return self.numbers.get("attn_logit_softcapping") is not None

    @property
    def sinks(self) -> bool:
        """Heads have attention sinks."""
        if self.generic is not None:
            return self.generic.sinks
        return self.architecture == "GptOssForCausalLM"

    @property
    def kept(self) -> tuple[int, int, int]:
        """What a layer's cache keeps of one position: heads, elements of a key, elements of a value.

        Of latents there is one head, and values are the first part of the keys.
        """
        if not self.attending:
            return NOTHING_KEPT
        if self.latent is not None:
            return 1, self.latent.kv_rank + self.latent.rotated, 0
        return self.kv_heads, self.head_dim, self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights, up to norms and biases: for the memory plan before anything is loaded."""
        if self.generic is not None:
            return self.generic.parameters
        attention = self.attending * self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        layers = attention + self.layers * 2 * self.hidden + sum(map(self._mlp_of, range(self.layers)))
        if (shape := self.recurrent) is not None:
            each = self.hidden * (2 * shape.inner + shape.channels + 2 * shape.heads) + shape.channels * shape.conv
            layers += sum(shape.layers) * each
        return layers + self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def expert_parameters(self) -> int:
        """Of these, weights of routed experts."""
        experts = self.experts
        return 0 if experts is None else 3 * self.hidden * experts.mlp * experts.count * sum(experts.sparse)

    def _mlp_of(self, layer: int) -> int:
        experts = self.experts
        if experts is None or not experts.sparse[layer]:
            return 3 * self.hidden * self.mlp
        return self.hidden * (3 * (experts.count * experts.mlp + experts.shared) + experts.count)


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


def read_raw(folder: Path) -> dict[str, Any]:
    """The `config.json` in `folder`, or its part about language, or what stands for it in a GGUF file."""
    if is_gguf(folder):
        return gguf_config(folder)
    return language_part(read_json(folder / "config.json", "a config.json, as transformers saves it"))


def read_config(folder: Path) -> ModelConfig:
    """The configuration in `folder`, with EOS ids from `generation_config.json` where it has them."""
    raw = read_raw(folder)
    generation = folder / "generation_config.json"
    more = read_json(generation, "a generation config") if generation.is_file() else {}
    return parse_config(raw, more)


def parse_config(raw: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    """From the contents of `config.json` and `generation_config.json`."""
    architecture = architecture_of(raw)
    dialect = dialect_of(architecture)
    given, raw = raw, _translated(raw, dialect)
    hidden, heads = positive(raw, "hidden_size"), positive(raw, "num_attention_heads")
    kv_heads = positive(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise StartupError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    vocab, layers = positive(raw, "vocab_size"), positive(raw, "num_hidden_layers")
    context = positive(raw, "max_position_embeddings", 2048)
    rope, local = read_ropes(raw, context)
    latent = _latent(raw, dialect)
    window, windowed = _windows(raw, dialect, layers, context)
    chunk, chunked = _chunks(raw, dialect, layers, context)
    experts, recurrent = _experts(raw, layers), _recurrent(raw, dialect, layers)
    bare = recurrent is not None and all(recurrent.layers) and "intermediate_size" not in raw
    return ModelConfig(
        architecture=architecture,
        vocab=vocab,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(raw, hidden, heads) if latent is None else latent.plain + latent.rotated,
        mlp=0 if bare else positive(raw, "intermediate_size", 4 * hidden if "n_embd" in raw else None),
        norm_eps=above_zero(raw, "rms_norm_eps", 1e-6),
        activation=activation(raw, "hidden_act", "silu"),
        rope=rope,
        context=rope.reach(context),
        tied=flag(raw, "tie_word_embeddings"),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        attention_bias=flag(raw, "attention_bias"),
        mlp_bias=flag(raw, "mlp_bias"),
        window=window,
        eos_ids=_eos_ids(raw, generation or {}, vocab),
        raw=given,
        local_rope=local,
        windowed=windowed,
        numbers=_numbers(raw, dialect, architecture),
        experts=experts,
        latent=latent,
        recurrent=recurrent,
        chunk=chunk,
        chunked=chunked,
    )


def architecture_of(raw: dict[str, Any]) -> str:
    """The first that is named."""
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise StartupError("config.json names no architecture", 'It needs "architectures": ["..."].')
    return names[0]


def _translated(raw: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """With what the file leaves out, under the general names."""
    full = {**dialect.defaults, **raw}
    return full | {name: full[own] for name, own in dialect.names.items() if own in full}


def _numbers(raw: dict[str, Any], dialect: Dialect, architecture: str) -> dict[str, Any]:
    """What the family reads, checked; anything else that would change the arithmetic is refused."""
    for key, neutral in ARITHMETIC.items():
        value = raw.get(key)
        if key not in dialect.reads and value is not None and value not in neutral:
            raise StartupError(
                f"config.json: {key} {value!r} changes what a model computes, and {architecture} does not take it into "
                "account here",
                "Where transformers does not either, take it out of config.json.",
            )
    return {key: _like(raw, key, default) for key, default in dialect.reads.items()}


def _like(raw: dict[str, Any], key: str, default: Any) -> Any:
    """A value of the type of its default; where that is None, whatever is there."""
    value = raw.get(key)
    if value is None:
        return default
    if isinstance(default, bool):
        return flag(raw, key)
    if isinstance(default, int | float) and not is_number(value):
        raise StartupError(f"config.json: {key} should be a number and is {value!r}")
    if isinstance(default, str) and not isinstance(value, str):
        raise StartupError(f"config.json: {key} should be a string and is {value!r}")
    return value


def _head_dim(raw: dict[str, Any], hidden: int, heads: int) -> int:
    if raw.get("head_dim") is None and hidden % heads:
        raise StartupError(
            f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}, and head_dim is missing"
        )
    size = positive(raw, "head_dim", hidden // heads)
    if size % 2:
        raise StartupError(f"config.json: a head_dim of {size} is odd, and rotary embedding takes pairs")
    return size


def activation(raw: dict[str, Any], key: str, default: str) -> str:
    """The function's name here."""
    return ACTIVATIONS[choice(raw, key, tuple(ACTIVATIONS), default if key not in raw else None)]


def _windows(raw: dict[str, Any], dialect: Dialect, layers: int, context: int) -> tuple[int | None, tuple[bool, ...]]:
    """The attention window in tokens and the layers that have it. One that holds the whole context is none."""
    if dialect.recurrent and raw.get("sliding_window") is None:
        return None, (False,) * layers
    if raw.get("sliding_window") is None or raw.get("use_sliding_window") is False:
        if not dialect.chunks:
            _no_windows(raw, layers)
        return None, (False,) * layers
    window = positive(raw, "sliding_window")
    if not dialect.windows:
        raise StartupError(
            f"config.json: sliding_window {window}, and {architecture_of(raw)} has no windows here",
            "Where transformers ignores it too, take it out of config.json.",
        )
    windowed = _layer_types(raw, layers) or _layer_pattern(raw, dialect, layers)
    return (window, windowed) if window < context and any(windowed) else (None, (False,) * layers)


def _chunks(raw: dict[str, Any], dialect: Dialect, layers: int, context: int) -> tuple[int | None, tuple[bool, ...]]:
    """The size of chunks in tokens and the layers that have them: those that rotate. One that holds the whole context
    is none.
    """
    if not dialect.chunks:
        return None, ()
    types = sequence(raw, "layer_types", layers, (str,))
    types = types or [CHUNKED if turns else FULL for turns in rotating(raw, layers)]
    for kind in types:
        if kind not in (FULL, CHUNKED):
            raise StartupError(f"config.json: layer_types has {kind!r}", f"Supported: {FULL}, {CHUNKED}.")
    chunk, chunked = positive(raw, "attention_chunk_size"), tuple(kind == CHUNKED for kind in types)
    return (chunk, chunked) if chunk < context and any(chunked) else (None, ())


def _no_windows(raw: dict[str, Any], layers: int) -> None:
    types = _layer_types(raw, layers)
    if types is not None and any(types):
        raise StartupError("config.json: layer_types has sliding_attention, and there is no sliding_window")


def _layer_types(raw: dict[str, Any], layers: int) -> tuple[bool, ...] | None:
    types = sequence(raw, "layer_types", layers, (str,))
    for kind in types or ():
        if kind not in (FULL, SLIDING):
            raise StartupError(f"config.json: layer_types has {kind!r}", f"Supported: {FULL}, {SLIDING}.")
    return None if types is None else tuple(kind == SLIDING for kind in types)


def _layer_pattern(raw: dict[str, Any], dialect: Dialect, layers: int) -> tuple[bool, ...]:
    if dialect.pattern:
        every = positive(raw, "sliding_window_pattern", dialect.pattern)
        return tuple((layer + 1) % every != 0 for layer in range(layers))
    first = positive(raw, "max_window_layers") if raw.get("max_window_layers") else 0  # Qwen2: the upper layers
    return tuple(layer >= first for layer in range(layers))


def _recurrent(raw: dict[str, Any], dialect: Dialect, layers: int) -> Recurrent | None:
    if not dialect.recurrent:
        return None
    heads, groups = positive(raw, "state_heads"), positive(raw, "state_groups")
    if heads % groups:
        raise StartupError(f"config.json: {heads} heads of a state are not a multiple of their {groups} groups")
    value = raw.get("state_value")
    if value == "auto":  # Granite
        value = positive(raw, "mamba_expand") * positive(raw, "hidden_size") // heads
    return Recurrent(
        kind=dialect.recurrent,
        heads=heads,
        value=positive({"state_value": value}, "state_value"),
        key=positive(raw, "state_key"),
        groups=groups,
        conv=positive(raw, "state_conv"),
        limits=_limits(raw),
        layers=_recurrent_layers(raw, dialect, layers),
    )


def _limits(raw: dict[str, Any]) -> tuple[float, float]:
    """Of time steps. JSON has no infinity: transformers writes {"__float__": "Infinity"}."""
    given = raw.get("time_step_limit")
    if given is None:
        return 0.0, math.inf
    values = given if isinstance(given, list) else []
    values = [math.inf if value == {"__float__": "Infinity"} else value for value in values]
    if len(values) != 2 or not all(is_number(value) for value in values) or not values[0] < values[1]:
        raise StartupError(f"config.json: time_step_limit should be two rising numbers and is {given!r}")
    return float(values[0]), float(values[1])


def _recurrent_layers(raw: dict[str, Any], dialect: Dialect, layers: int) -> tuple[bool, ...]:
    types = sequence(raw, "layer_types", layers, (str,))
    attending = raw.get("attn_layer_indices")  # Bamba
    if isinstance(attending, list):
        return tuple(layer not in attending for layer in range(layers))
    if types is None:
        every = positive(raw, "full_attention_interval", dialect.pattern or layers + 1)
        return tuple((layer + 1) % every != 0 for layer in range(layers))
    for kind in types:
        if kind not in (*ATTENDING, *RECURRENT):
            raise StartupError(
                f"config.json: layer_types has {kind!r}", f"Supported: {', '.join((*ATTENDING, *RECURRENT))}."
            )
    return tuple(kind in RECURRENT for kind in types)


def _experts(raw: dict[str, Any], layers: int) -> Experts | None:
    named = next((key for key in EXPERTS if raw.get(key)), None)
    if named is None:
        return None
    count, chosen = positive(raw, named), positive(raw, "num_experts_per_tok")
    if chosen > count:
        raise StartupError(f"config.json: num_experts_per_tok {chosen} is more than {named} {count}")
    mlp = positive(raw, "moe_intermediate_size", raw.get("intermediate_size"))
    shared = mlp * positive(raw, "n_shared_experts") if raw.get("n_shared_experts") else 0
    if raw.get("shared_expert_intermediate_size"):
        shared = positive(raw, "shared_expert_intermediate_size")
    return Experts(count, chosen, mlp, shared, _sparse(raw, layers))


def _sparse(raw: dict[str, Any], layers: int) -> tuple[bool, ...]:
    """Which layers have experts: DeepSeek's begin with dense ones, Qwen's may leave any out."""
    types = sequence(raw, "mlp_layer_types", layers, (str,))
    if types is not None:
        return tuple(kind == "sparse" for kind in types)
    listed = raw.get("moe_layers")  # Llama 4
    if isinstance(listed, list):
        return tuple(layer in listed for layer in range(layers))
    dense, step = raw.get("mlp_only_layers") or (), positive(raw, "decoder_sparse_step", 1)
    first = positive(raw, "first_k_dense_replace") if raw.get("first_k_dense_replace") else 0
    return tuple(layer >= first and layer not in dense and (layer + 1) % step == 0 for layer in range(layers))


def _latent(raw: dict[str, Any], dialect: Dialect) -> Latent | None:
    if "kv_lora_rank" not in dialect.reads:
        return None
    return Latent(
        kv_rank=positive(raw, "kv_lora_rank", 512),
        q_rank=positive(raw, "q_lora_rank") if raw.get("q_lora_rank") else None,
        plain=positive(raw, "qk_nope_head_dim", 128),
        rotated=positive(raw, "qk_rope_head_dim", 64),
        value=positive(raw, "v_head_dim", 128),
    )


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
