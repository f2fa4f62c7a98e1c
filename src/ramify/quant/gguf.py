"""The types of ggml (ggml-common.h, ggml-quants.c): blocks of 32 numbers, or of 256 with scales that are quantized too.

Q4_0  d h4                 (h - 8) d             Q4_K  d dmin s12 h4    q d s - dmin m, s and m in 6 bits per 32
Q4_1  d m h4               h d + m               Q5_K  and a fifth bit
Q5_0  d b32 h4             (q - 16) d            Q6_K  6 bits, a scale in int8 per 16
Q5_1  d m b32 h4           q d + m
Q8_0  d int8               q d
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ramify.config.gguf import TYPES
from ramify.config.quantized import Quantized
from ramify.quant.format import FLOATS, Found, Piece, Pieces

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

QUANTIZED = tuple(name for name, _, _ in TYPES.values() if name not in FLOATS)


class Gguf:
    spare: tuple[str, ...] = ()

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        info = found.get(f"{module}.weight")
        if info is None or info.dtype not in QUANTIZED:
            return None
        return {info.dtype: Piece(f"{module}.weight", (shape,), QUANTIZED)}

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        from ramify.quant import ggml

        ((kind, rows),) = tensors.items()
        read: Callable[[Tensor], Stored] = ggml.READ[kind]
        return read(rows)


GGUF = Gguf()
