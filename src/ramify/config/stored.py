"""How many bytes weights, keys and values take as they are stored, before anything is loaded."""

from __future__ import annotations

from ramify.config.model import ModelConfig

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
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


def weight_bytes(model: ModelConfig, dtype: str, quantization: str) -> int:
    """Bytes of all weights, quantized or not; up to norms, biases and what packing pads.

    An int8 row has a scale and a sum, 8 bytes, for its inputs: `hidden` or more of them. In int4 a group has a scale of
    two bytes, and embeddings and heads are int8.
    """
    if quantization == "none":
        return model.parameters * ELEMENT_BYTES[dtype]
    vocabulary = model.vocab * model.hidden * (1 if model.tied else 2)
    experts = model.expert_parameters * ELEMENT_BYTES[dtype]
    linears = model.parameters - model.expert_parameters - vocabulary
    if quantization == "int4":
        return _int8(vocabulary, model) + linears // GROUP * (GROUP // 2 + 2) + experts
    assert quantization == "w8a8"
    return _int8(model.parameters - model.expert_parameters, model) + experts


def _int8(weights: int, model: ModelConfig) -> int:
    return weights + weights // model.hidden * 8
