"""bitsandbytes: NF4 and FP4 with absolute maxima per block, quantized once more or not, and LLM.int8().

    4 bits    X.weight uint8 [E * D / 2, 1]     two to a byte, the upper half first
              X.weight.quant_map                the 16 numbers
              X.weight.absmax                   a maximum per block of the flattened weight, as numbers, or as bytes:
              X.weight.nested_absmax, .nested_quant_map   then the 256 numbers they stand for and maxima of those
              X.weight.quant_state.bitsandbytes__nf4      JSON in bytes: blocksize, shape, nested_offset, ...
    8 bits    X.weight int8 [E, D]   X.SCB float32 [E]    a weight is stored * SCB / 127

The part of LLM.int8() that computes outliers of activations in 16 bits is left out: inputs are int8 with a scale per
row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ramify.config.quantized import Quantized
from ramify.core.errors import StartupError
from ramify.quant.format import MISMATCH, Found, Piece, Pieces

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

KINDS = ("nf4", "fp4")
MOST_STATE = 1 << 16  # bytes of JSON
NESTED = 256
LARGEST = 127
BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)


class BitsAndBytes:
    spare = (".weight_format",)

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        weight = f"{module}.weight"
        info = found.get(weight)
        if info is None or info.dtype not in ("U8", "I8"):
            return None
        if info.dtype == "I8":
            return {
                "whole": Piece(weight, (shape,), ("I8",)),
                "scale": Piece(f"{module}.SCB", ((shape[0],),), ("F32",)),
            }
        return _of_four_bits(weight, shape, found)

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        from ramify.quant.stored import Int8

        if "whole" in tensors:
            return Int8(tensors["whole"], tensors["scale"] / LARGEST)
        return _dequantized(tensors, shape)


def _of_four_bits(weight: str, shape: tuple[int, int], found: Found) -> Pieces:
    count = shape[0] * shape[1]
    kind = next((kind for kind in KINDS if f"{weight}.quant_state.bitsandbytes__{kind}" in found), KINDS[0])
    state = f"{weight}.quant_state.bitsandbytes__{kind}"
    absmax = found.get(f"{weight}.absmax")
    blocks = tuple((-(-count // block),) for block in BLOCKS)
    size = found[state].shape if state in found else (0,)
    if len(size) != 1 or not 0 < size[0] <= MOST_STATE:
        raise StartupError(f"the checkpoint lacks the tensor {state}, or it is not some JSON", MISMATCH)
    made = {
        "packed": Piece(weight, ((count // 2, 1), (1, count // 2)), ("U8",)),
        "map": Piece(f"{weight}.quant_map", ((16,),), ("F32",)),
        "absmax": Piece(f"{weight}.absmax", blocks, ("F32", "U8")),
        "state": Piece(state, (size,), ("U8",)),
    }
    if absmax is not None and absmax.dtype == "U8" and len(absmax.shape) == 1:
        made["nested"] = Piece(f"{weight}.nested_absmax", ((-(-absmax.shape[0] // NESTED),),), ("F32",))
        made["nested_map"] = Piece(f"{weight}.nested_quant_map", ((NESTED,),), ("F32",))
    return made


def _dequantized(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Stored:
    import torch

    from ramify.quant.stored import Floats

    state = _state(tensors["state"].numpy().tobytes())
    packed, table, (outputs, inputs) = tensors["packed"].flatten(), tensors["map"], shape
    block = int(state["blocksize"])
    if -(-outputs * inputs // block) != len(tensors["absmax"]) or tuple(state["shape"]) != shape:
        raise StartupError(f"quant_state: blocks of {block} do not go with a weight of {list(shape)}", MISMATCH)
    absmax = tensors["absmax"]
    if "nested" in tensors:
        outer = tensors["nested"].repeat_interleave(NESTED)[: len(absmax)]
        absmax = tensors["nested_map"][absmax.int()] * outer + float(state["nested_offset"])

    def rows(first: int, last: int) -> Tensor:
        start, end = first * inputs, last * inputs
        byte = packed[start // 2 : -(-end // 2)]
        numbers = table[torch.stack((byte >> 4, byte & 15), dim=-1).flatten().int()]
        at = torch.arange(start, end) // block
        return (numbers[start % 2 : start % 2 + end - start] * absmax[at]).view(last - first, inputs)

    return Floats((outputs, inputs), rows)


def _state(text: bytes) -> dict[str, Any]:
    try:
        state = json.loads(text)
        checked = isinstance(state["blocksize"], int) and state["blocksize"] in BLOCKS
        if checked and isinstance(state["shape"], list) and isinstance(state.get("nested_offset", 0.0), float | int):
            return {"nested_offset": 0.0, **state}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StartupError("quant_state of bitsandbytes is damaged or of a kind that is not known", MISMATCH)


BITSANDBYTES = BitsAndBytes()
