"""What a checkpoint holds: the name and shape of each tensor, and where it goes.

Torch-free, so that a checkpoint can be checked in the first second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ramify.config.model import ModelConfig


@dataclass(frozen=True)
class Destination:
    """A tensor of the checkpoint: its shape, the layer (dotted path), the layer's weight, and the part of that."""

    shape: tuple[int, ...]
    layer: str
    weight: str = "weight"
    part: str = "all"


Layout = dict[str, Destination]

# Tensors that old checkpoints carry and that are computed instead.
COMPUTED = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "embeddings.position_ids")


def decoder(config: ModelConfig, *, qkv_bias: bool = False, out_bias: bool = False, qk_norm: bool = False) -> Layout:
    """The decoder of Llama's shape, with transformers' names."""
    layout = {
        "model.embed_tokens.weight": Destination((config.vocab, config.hidden), "embedding"),
        "model.norm.weight": Destination((config.hidden,), "norm"),
    }
    if not config.tied:
        layout["lm_head.weight"] = Destination((config.vocab, config.hidden), "head")
    for layer in range(config.layers):
        layout |= _block(config, layer, qkv_bias, out_bias, qk_norm)
    return layout


def _block(config: ModelConfig, layer: int, qkv_bias: bool, out_bias: bool, qk_norm: bool) -> Layout:
    here, there = f"model.layers.{layer}", f"layers.{layer}"
    hidden, size = config.hidden, config.head_dim
    rows = {"q": config.heads * size, "k": config.kv_heads * size, "v": config.kv_heads * size}
    layout = {
        f"{here}.input_layernorm.weight": Destination((hidden,), f"{there}.attention_norm"),
        f"{here}.post_attention_layernorm.weight": Destination((hidden,), f"{there}.mlp_norm"),
    }

    def linear(name: str, target: str, part: str, outputs: int, inputs: int, bias: bool) -> None:
        layout[f"{here}.{name}.weight"] = Destination((outputs, inputs), f"{there}.{target}", "weight", part)
        if bias:
            layout[f"{here}.{name}.bias"] = Destination((outputs,), f"{there}.{target}", "bias", part)

    for part, outputs in rows.items():
        linear(f"self_attn.{part}_proj", "attention.qkv", part, outputs, hidden, qkv_bias)
    linear("self_attn.o_proj", "attention.out", "all", hidden, rows["q"], out_bias)
    for part in ("gate", "up"):
        linear(f"mlp.{part}_proj", "mlp.gate_up", part, config.mlp, hidden, config.mlp_bias)
    linear("mlp.down_proj", "mlp.down", "all", hidden, config.mlp, config.mlp_bias)
    if qk_norm:
        for part in "qk":
            layout[f"{here}.self_attn.{part}_norm.weight"] = Destination((size,), f"{there}.attention.{part}_norm")
    return layout


@dataclass(frozen=True)
class Family:
    """Where a family's code is (`module:class`), and what its checkpoints hold. `fit` puts a layout into the names that
    a checkpoint really has, where there are several ways to name them; `spare` are beginnings of names that may be
    there and are not read.
    """

    code: str
    layout: Callable[[ModelConfig], Layout]
    fit: Callable[[Layout, Collection[str]], Layout] = lambda layout, names: layout
    spare: tuple[str, ...] = ()


def _llama(config: ModelConfig) -> Layout:
    return decoder(config, qkv_bias=config.attention_bias, out_bias=config.attention_bias)


def _qwen2(config: ModelConfig) -> Layout:
    return decoder(config, qkv_bias=True)


def _qwen3(config: ModelConfig) -> Layout:
    return decoder(config, qkv_bias=config.attention_bias, out_bias=config.attention_bias, qk_norm=True)


LLAMA = Family("ramify.models.llama:Llama", _llama)
QWEN2 = Family("ramify.models.qwen2:Qwen2", _qwen2)
QWEN3 = Family("ramify.models.qwen3:Qwen3", _qwen3)
