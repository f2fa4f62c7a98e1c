"""FP8 (E4M3) with a scale per tensor, output or block: DeepSeek V3, Qwen's FP8, FBGEMM, and as vLLM and SGLang read it.

    X.weight              F8_E4M3 [E, D]
    X.weight_scale_inv    of blocks, [E / block, D / block]; a weight is stored * scale, whatever the name says
    X.weight_scale        the same by its other name: one, [E, 1], or of blocks

Scales of activations are not read: they stay in the model's type here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ramify.config.quantized import Quantized
from ramify.quant.format import Found, Piece, Pieces, divided

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

E4M3 = "F8_E4M3"
SCALES = ("weight_scale_inv", "weight_scale")
SCALE_TYPES = ("F32", "BF16", "F16", "F8_E8M0")


class Fp8:
    spare = (".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".q_scale")

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        weight = f"{module}.weight"
        if weight not in found or found[weight].dtype != E4M3:
            return None
        scale = next((name for name in SCALES if f"{module}.{name}" in found), SCALES[0])
        return {
            "weight": Piece(weight, (shape,), (E4M3,)),
            "scale": Piece(f"{module}.{scale}", scales_of(shape, quantized.block), SCALE_TYPES),
        }

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        from ramify.quant.blocks import scaled

        return scaled(tensors["weight"], tensors["scale"], quantized.block)


def scales_of(shape: tuple[int, int], block: tuple[int, int] | None) -> tuple[tuple[int, ...], ...]:
    """Shapes that the scales of a weight may have."""
    one: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1))
    blocks = () if block is None else ((divided(shape[0], block[0]), divided(shape[1], block[1])),)
    return (*blocks, *one, (shape[0],), (shape[0], 1))


FP8 = Fp8()
