"""What a checkpoint holds: the name and shape of each tensor, and where it goes.

Torch-free, so that a checkpoint can be checked in the first second. What each family holds stands in `layouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError

EMBEDDING, HEAD = "embedding", "head"  # layers of every model

# Tensors that old checkpoints carry and that are computed instead.
COMPUTED = (
    "rotary_emb.inv_freq",
    "attention.bias",
    "attention.masked_bias",
    ".attn.bias",
    ".attn.masked_bias",
    "embeddings.position_ids",
)


@dataclass(frozen=True)
class Destination:
    """A tensor of the checkpoint: its shape, the layer (dotted path), the layer's weight, and the part of that.

    `arranged` names what is done to it first: see `weights.arrange`.
    """

    shape: tuple[int, ...]
    layer: str
    weight: str = "weight"
    part: str = "all"
    arranged: str = ""


Layout = dict[str, Destination]


@dataclass(frozen=True)
class Family:
    """Where a family's code is (`module:class`), what its checkpoints hold, and which models it serves, for people.

    `fit` puts a layout into the names that a checkpoint really has, where there are several ways to name them; `spare`
    are beginnings of names that may be there and are not read.
    """

    code: str
    layout: Callable[[ModelConfig], Layout]
    fit: Callable[[Layout, Collection[str]], Layout] = lambda layout, names: layout
    spare: tuple[str, ...] = ()
    models: str = ""


class Names:
    """Collects a layout: tensors whose names begin with `here`, for layers whose paths begin with `there`."""

    def __init__(self, layout: Layout, here: str, there: str) -> None:
        self.layout, self.here, self.there = layout, here, there

    def below(self, here: str, there: str) -> Names:
        return Names(self.layout, self.here + here, self.there + there)

    def tensor(
        self, name: str, layer: str, shape: tuple[int, ...], weight: str = "weight", part: str = "all", how: str = ""
    ) -> None:
        self.layout[self.here + name] = Destination(shape, self.there + layer, weight, part, how)

    def norm(self, name: str, layer: str, size: int, bias: bool = False) -> None:
        self.tensor(f"{name}.weight", layer, (size,))
        if bias:
            self.tensor(f"{name}.bias", layer, (size,), "bias")

    def linear(
        self, name: str, layer: str, outputs: int, inputs: int, *, part: str = "all", bias: bool = False
    ) -> None:
        self.tensor(f"{name}.weight", layer, (outputs, inputs), part=part)
        if bias:
            self.tensor(f"{name}.bias", layer, (outputs,), "bias", part)

    def transposed(self, name: str, layer: str, outputs: int, inputs: int) -> None:
        """A linear layer with a bias, its weight [inputs, outputs]."""
        self.tensor(f"{name}.weight", layer, (inputs, outputs), how="transposed")
        self.tensor(f"{name}.bias", layer, (outputs,), "bias")


def decoder(
    config: ModelConfig, block: Callable[[Names, ModelConfig, int], None], *, bias: bool = False, root: str = "model."
) -> Layout:
    """A decoder with the names of Llama around its blocks."""
    _check_sections(config)
    layout: Layout = {}
    outside, inside = Names(layout, "", ""), Names(layout, root, "")
    outside_of_blocks(outside, inside, config, bias)
    for layer in range(config.layers):
        block(inside.below(f"layers.{layer}.", f"layers.{layer}."), config, layer)
    return layout


def alike(*pieces: Callable[[Names, ModelConfig], None]) -> Callable[[ModelConfig], Layout]:
    """The layout of a decoder whose blocks all have the same pieces."""

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        for piece in pieces:
            piece(names, config)

    return lambda config: decoder(config, block)


def _check_sections(config: ModelConfig) -> None:
    size = config.head_dim if config.latent is None else config.latent.rotated
    sections, pairs = config.rope.sections, config.rope.rotated(size) // 2
    if sections and sum(sections) != pairs:
        raise StartupError(
            f"config.json: mrope_section {list(sections)} does not add up to the {pairs} pairs of a head"
        )


def outside_of_blocks(outside: Names, inside: Names, config: ModelConfig, bias: bool) -> None:
    inside.tensor("embed_tokens.weight", EMBEDDING, (config.vocab, config.hidden))
    inside.norm("norm", "norm", config.hidden, bias)
    if not config.tied:
        outside.linear("lm_head", HEAD, config.vocab, config.hidden)


def pre_norms(names: Names, config: ModelConfig) -> None:
    """Before attention and before the feed-forward block, as Llama calls them."""
    names.norm("input_layernorm", "attention_norm", config.hidden)
    names.norm("post_attention_layernorm", "mlp_norm", config.hidden)


def attention(names: Names, config: ModelConfig, *, qkv_bias: bool = False, out_bias: bool = False) -> None:
    rows = {"q": config.heads * config.head_dim}
    rows["k"] = rows["v"] = config.kv_heads * config.head_dim
    for part, outputs in rows.items():
        names.linear(f"self_attn.{part}_proj", "attention.qkv", outputs, config.hidden, part=part, bias=qkv_bias)
    names.linear("self_attn.o_proj", "attention.out", config.hidden, rows["q"], bias=out_bias)


def biased_attention(names: Names, config: ModelConfig) -> None:
    """With a bias everywhere, where the configuration says that there is any."""
    attention(names, config, qkv_bias=config.attention_bias, out_bias=config.attention_bias)


def fused_attention(names: Names, config: ModelConfig) -> None:
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    names.linear("self_attn.qkv_proj", "attention.qkv", q + 2 * kv, config.hidden)
    names.linear("self_attn.o_proj", "attention.out", config.hidden, q)


def head_norms(names: Names, config: ModelConfig) -> None:
    """Of queries and keys, the same for all heads."""
    for part in "qk":
        names.norm(f"self_attn.{part}_norm", f"attention.{part}_norm", config.head_dim)


def gated_mlp(
    names: Names, config: ModelConfig, name: str = "mlp", layer: str = "mlp", width: int | None = None
) -> None:
    width = width or config.mlp
    for part in ("gate", "up"):
        names.linear(f"{name}.{part}_proj", f"{layer}.gate_up", width, config.hidden, part=part, bias=config.mlp_bias)
    names.linear(f"{name}.down_proj", f"{layer}.down", config.hidden, width, bias=config.mlp_bias)


def fused_gated_mlp(names: Names, config: ModelConfig) -> None:
    names.linear("mlp.gate_up_proj", "mlp.gate_up", 2 * config.mlp, config.hidden)
    names.linear("mlp.down_proj", "mlp.down", config.hidden, config.mlp)


def experts(
    names: Names,
    config: ModelConfig,
    *,
    room: str = "mlp",
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> None:
    """A router, and experts one by one; `parts` are what they call their three projections."""
    assert config.experts is not None
    gate, up, down = parts
    width, hidden = config.experts.mlp, config.hidden
    names.linear(f"{room}.gate", "mlp.router.linear", config.experts.count, hidden)
    for expert in range(config.experts.count):
        here, layer = f"{room}.experts.{expert}", "mlp.experts"
        names.linear(f"{here}.{gate}", f"{layer}.gate_up", width, hidden, part=f"{expert}.gate")
        names.linear(f"{here}.{up}", f"{layer}.gate_up", width, hidden, part=f"{expert}.up")
        names.linear(f"{here}.{down}", f"{layer}.down", hidden, width, part=f"{expert}.all")
