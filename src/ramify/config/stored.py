"""How many bytes weights take as they are stored, before anything is loaded."""

from __future__ import annotations

from ramify.config.model import ModelConfig


def weight_bytes(model: ModelConfig, element: int, quantization: str) -> int:
    """Bytes of all weights in numbers of `element` bytes, or quantized; up to norms, biases and what packing pads.

    An int8 row has a scale and a sum, 8 bytes, for its inputs: `hidden` or more of them.
    """
    if quantization == "none":
        return model.parameters * element
    assert quantization == "w8a8"
    return model.parameters + model.parameters // model.hidden * 8
