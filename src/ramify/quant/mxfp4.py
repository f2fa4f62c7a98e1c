"""MXFP4 as GPT-OSS is published. Its experts are stacked, and its layout names their blocks and scales itself
(`models.layouts`): to the linears beside them nothing has been done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ramify.config.quantized import Quantized
from ramify.quant.format import Found, Pieces

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored


class Mxfp4:
    spare: tuple[str, ...] = ()

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        return None

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        raise AssertionError("it has no pieces")


MXFP4 = Mxfp4()
