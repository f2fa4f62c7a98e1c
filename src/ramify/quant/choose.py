"""From a resolved `--quantization` to the schemes of a model's layers."""

from __future__ import annotations

import logging

from ramify.config.quantized import Quantized
from ramify.ops.kernels import Kernels
from ramify.ops.reference import int8
from ramify.quant.format import FORMATS
from ramify.quant.kept import Kept
from ramify.quant.packed import Packed
from ramify.quant.scheme import LinearScheme, Plain

log = logging.getLogger(__name__)


def unquantized(kernels: Kernels) -> LinearScheme:
    """Weights in their own type."""
    return Plain() if kernels.packing is None else Packed(kernels.packing)


def schemes_of(
    quantization: str, kernels: Kernels, quantized: Quantized | None = None
) -> tuple[LinearScheme, LinearScheme]:
    """How linears are stored, and how embeddings and the head are: never in less than int8, see docs/decisions/019.
    `quantized` is how the checkpoint stores them.
    """
    if quantization == "none":
        return unquantized(kernels), unquantized(kernels)
    if kernels.w8a8.linear is int8.linear:
        log.warning("%s is computed by its reference in plain torch, which is slow: see `ramify doctor`", quantization)
    if quantization in FORMATS:
        return Kept(quantized is not None and quantized.stored != "float"), unquantized(kernels)
    linears = {"w8a8": kernels.w8a8, "int4": kernels.int4}
    return Packed(linears[quantization], separate=True), Packed(kernels.w8a8)
