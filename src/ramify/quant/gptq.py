"""GPTQ (Frantar et al. 2022), as GPTQModel and AutoGPTQ write it, in 4 and 8 bits.

X.qweight   int32 [D * bits / 32, E]   numbers of one output below each other, the lowest bits first
X.qzeros    int32 [G, E * bits / 32]   less one in the first version of the format
X.scales    [G, E]
X.g_idx     int32 [D]                  the group of each input: out of order with act-order
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ramify.config.quantized import Quantized
from ramify.core.errors import StartupError
from ramify.quant.format import FLOATS, MISMATCH, Found, Piece, Pieces, groups_of

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

BITS = (4, 8)
WORD = 32


class Gptq:
    spare: tuple[str, ...] = ()

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        if f"{module}.qweight" not in found:
            return None
        outputs, inputs = shape
        groups = groups_of(module, shape, found, even=False)
        made = {
            "weight": Piece(f"{module}.qweight", tuple((inputs * b // WORD, outputs) for b in BITS), ("I32",)),
            "zeros": Piece(f"{module}.qzeros", tuple((groups, outputs * b // WORD) for b in BITS), ("I32",)),
            "scales": Piece(f"{module}.scales", ((groups, outputs),), FLOATS),
        }
        if f"{module}.g_idx" in found:
            made["order"] = Piece(f"{module}.g_idx", ((inputs,),), ("I32", "I64"))
        return made

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        from ramify.quant.groups import grouped, unpacked

        bits = tensors["weight"].shape[0] * WORD // shape[1]
        whole_ED = unpacked(tensors["weight"].T, bits)
        zero_GE = unpacked(tensors["zeros"], bits)
        if quantized.version == "gptq":
            zero_GE = zero_GE + 1 & (1 << bits) - 1
        scale_EG, order_D = tensors["scales"].T, tensors.get("order")
        if order_D is not None and not (int(order_D.min()) >= 0 and int(order_D.max()) < scale_EG.shape[1]):
            raise StartupError(f"g_idx names a group that is not among the {scale_EG.shape[1]} of scales", MISMATCH)
        return grouped(whole_ED, bits, scale_EG, zero_GE.T, order_D)


GPTQ = Gptq()
