"""AWQ (Lin et al. 2023) in the packing called gemm, 4 bits with zeros.

    X.qweight   int32 [D, E / 8]
    X.qzeros    int32 [G, E / 8]
    X.scales    [G, E]

The eight outputs of a word stand in the order 0, 2, 4, 6, 1, 3, 5, 7, from its lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ramify.config.quantized import Quantized
from ramify.quant.format import FLOATS, Found, Piece, Pieces, groups_of

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word an output stands
A_WORD = 8


class Awq:
    spare: tuple[str, ...] = ()

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        if f"{module}.qweight" not in found:
            return None
        outputs, inputs = shape
        groups = groups_of(module, shape, found, even=True)
        return {
            "weight": Piece(f"{module}.qweight", ((inputs, outputs // A_WORD),), ("I32",)),
            "zeros": Piece(f"{module}.qzeros", ((groups, outputs // A_WORD),), ("I32",)),
            "scales": Piece(f"{module}.scales", ((groups, outputs),), FLOATS),
        }

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        from ramify.quant.groups import grouped, unpacked

        whole_DE, zero_GE = (unpacked(tensors[name], 4, PLACES) for name in ("weight", "zeros"))
        return grouped(whole_DE.T.contiguous(), 4, tensors["scales"].T, zero_GE.T)


AWQ = Awq()
