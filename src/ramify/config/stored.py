"""How many bytes weights, keys and values take as they are stored, before anything is loaded."""

from __future__ import annotations

from ramify.config.model import ModelConfig
from ramify.config.quantized import Quantized

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "float8_e4m3fn": 1}
SCALE_BYTES = 4
GROUP = 32  # inputs that share a scale in int4


def int8_row(size: int) -> int:
    """Bytes of `size` numbers as int8, in whole groups of four, with their scale behind them."""
    return -(-size // 4) * 4 + SCALE_BYTES


def kv_bytes(model: ModelConfig, dtype: str) -> int:
    """Bytes of K and V over all layers for one position, scales included."""
    return 0 if model.encoder is not None else model.attending * _kept_bytes(model, dtype)


def window_bytes(model: ModelConfig, dtype: str) -> int:
    """Of these, bytes of layers with a window."""
    return sum(model.windowed) * _kept_bytes(model, dtype)


def state_bytes(model: ModelConfig, dtype: str) -> int:
    """Bytes of the states of one request over all layers that keep one: matrices in float32, inputs of convolutions."""
    shape = model.recurrent
    if shape is None:
        return 0
    matrices = shape.heads * shape.value * shape.key * ELEMENT_BYTES["float32"]
    return sum(shape.layers) * (matrices + (shape.conv - 1) * shape.channels * ELEMENT_BYTES[dtype])


def _kept_bytes(model: ModelConfig, dtype: str) -> int:
    heads, *sizes = model.kept
    return heads * sum(int8_row(size) if dtype == "int8" else size * ELEMENT_BYTES[dtype] for size in sizes)


OFFSETS = {"int4 with offsets": 0.5}  # bits of a weight beside its four and its scale's, for groups of 32


def weight_bytes(model: ModelConfig, dtype: str, quantization: str, quantized: Quantized | None = None) -> int:
    """Bytes of all weights, quantized or not; up to norms, biases and what packing pads. `quantized` is how the
    checkpoint stores them, which counts where nothing else was asked for.

    An int8 row has a scale and a sum, 8 bytes, for its inputs: `hidden` or more of them. In int4 a group has a scale of
    two bytes, and embeddings and heads are int8.
    """
    if quantization == "none":
        return model.parameters * ELEMENT_BYTES[dtype]
    if quantized is not None and quantization == quantized.method:
        return _kept_weights(model, dtype, quantized)
    vocabulary = model.vocab * model.hidden * (1 if model.tied else 2)
    wide = _never_quantized(model, quantized)
    linears = model.parameters - wide - vocabulary
    if quantization == "int4":
        return _int8(vocabulary, model) + linears // GROUP * (GROUP // 2 + 2) + wide * ELEMENT_BYTES[dtype]
    assert quantization == "w8a8"
    return _int8(model.parameters - wide, model) + wide * ELEMENT_BYTES[dtype]


def _never_quantized(model: ModelConfig, quantized: Quantized | None) -> int:
    """Weights that stay as they are: experts that came in MXFP4, and of a generic model what is no linear."""
    if model.generic is not None:
        return model.generic.elsewhere
    return model.expert_parameters if quantized is not None and quantized.method == "mxfp4" else 0


def _kept_weights(model: ModelConfig, dtype: str, quantized: Quantized) -> int:
    """Linears and experts as the checkpoint has them, or in the model's type; embeddings and heads in the latter."""
    vocabulary = model.vocab * model.hidden * (1 if model.tied else 2)
    linears = model.parameters - vocabulary
    wide = (model.parameters - linears) * ELEMENT_BYTES[dtype]
    if quantized.counts:
        bits = {"Q4_0": 4.5, "Q4_1": 5.0, "Q4_K": 5.0}
        each = sum(count * bits.get(kind, 8 * ELEMENT_BYTES[dtype]) for kind, count in quantized.counts)
        return int(linears * each / sum(count for _, count in quantized.counts) / 8) + wide
    if quantized.stored == "int8":
        return _int8(linears, model) + wide
    if quantized.stored.startswith("int4"):
        return int(linears * (4.5 + OFFSETS.get(quantized.stored, 0)) / 8) + wide
    return linears * ELEMENT_BYTES[dtype] + wide


def _int8(weights: int, model: ModelConfig) -> int:
    return weights + weights // model.hidden * 8
