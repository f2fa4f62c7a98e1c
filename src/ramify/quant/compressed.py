"""compressed-tensors, the format of LLM Compressor: int8, int4 and float8, per tensor, output, group or block.

    int-quantized      X.weight int8 [E, D]               X.weight_scale [E, 1] or one    X.weight_zero_point
    float-quantized    X.weight F8_E4M3 [E, D]            X.weight_scale, of blocks too
    pack-quantized     X.weight_packed int32 [E, D bits / 32], the lowest bits first, the middle added
                       X.weight_scale [E, G]   X.weight_zero_point int32 [E bits / 32, G], packed along the outputs
                       X.weight_g_idx int32 [D]
    mxfp4-pack-quantized    X.weight_packed uint8 [E, D / 2]   X.weight_scale uint8 [E, D / 32]

What a module has is seen by its tensors. Scales of activations are not read: inputs of int8 weights get one per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ramify.config.quantized import Quantized
from ramify.core.errors import StartupError
from ramify.quant.format import FLOATS, MISMATCH, Found, Piece, Pieces, divided
from ramify.quant.fp8 import E4M3, scales_of

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

BITS = (4, 8)  # of what is packed
WORD = 32
MX_GROUP = 32


class Compressed:
    spare = (".weight_shape", ".input_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale", ".q_scale")

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        packed = found.get(f"{module}.weight_packed")
        if packed is not None:
            return _fp4(module, shape) if packed.dtype == "U8" else _packed(module, shape, found)
        plain = found.get(f"{module}.weight")
        if plain is None or plain.dtype not in (E4M3, "I8"):
            return None
        scales = scales_of(shape, quantized.block) if plain.dtype == E4M3 else _scales(module, shape, found)
        made = {
            "weight": Piece(f"{module}.weight", (shape,), (plain.dtype,)),
            "scale": Piece(f"{module}.weight_scale", scales, FLOATS),
        }
        if (zeros := f"{module}.weight_zero_point") in found:
            made["zeros"] = Piece(zeros, scales, ("I8", E4M3))
        return made

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        if "packed" in tensors:
            return _unpack(tensors, shape)
        if "blocks" in tensors:
            from ramify.quant.fp4 import mxfp4

            return mxfp4(tensors["blocks"], tensors["scale"])
        return _whole(tensors, quantized)


def _scales(module: str, shape: tuple[int, int], found: Found) -> tuple[tuple[int, ...], ...]:
    """Of int8 weights: they may be in groups."""
    one: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1), (shape[0],), (shape[0], 1))
    info = found.get(f"{module}.weight_scale")
    groups = info.shape[1] if info is not None and len(info.shape) == 2 else 0
    return (*one, (shape[0], groups)) if groups and shape[1] % groups == 0 else one


def _packed(module: str, shape: tuple[int, int], found: Found) -> Pieces:
    outputs, inputs = shape
    name = f"{module}.weight_scale"
    groups = found[name].shape[1] if name in found and len(found[name].shape) == 2 else 0
    if not 0 < groups <= inputs or inputs % groups:
        raise StartupError(f"tensor {name}: {groups} groups do not go with a weight of {list(shape)}", MISMATCH)
    made = {
        "packed": Piece(
            f"{module}.weight_packed", tuple((outputs, divided(inputs * bits, WORD)) for bits in BITS), ("I32",)
        ),
        "scale": Piece(name, ((outputs, groups),), FLOATS),
    }
    if (zeros := f"{module}.weight_zero_point") in found:
        wide = tuple((divided(outputs * bits, WORD), groups) for bits in BITS)
        made["zeros"] = Piece(zeros, (*wide, (outputs, groups)), ("I32", "I8"))
    if (order := f"{module}.weight_g_idx") in found:
        made["order"] = Piece(order, ((inputs,),), ("I32", "I64"))
    return made


def _fp4(module: str, shape: tuple[int, int]) -> Pieces:
    outputs, inputs = shape
    if inputs % MX_GROUP:
        raise StartupError(f"{module} has {inputs} inputs, and mxfp4 has groups of {MX_GROUP}", MISMATCH)
    return {
        "blocks": Piece(f"{module}.weight_packed", ((outputs, inputs // 2),), ("U8",)),
        "scale": Piece(f"{module}.weight_scale", ((outputs, inputs // MX_GROUP),), ("U8", "F8_E8M0")),
    }


def _unpack(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Stored:
    from ramify.quant.groups import grouped, unpacked

    outputs, inputs = shape
    words, zeros, order_D = tensors["packed"], tensors.get("zeros"), tensors.get("order")
    bits = next(bits for bits in BITS if words.shape[1] == divided(inputs * bits, WORD))
    if zeros is not None:
        packed = zeros.element_size() > 1
        zeros = unpacked(zeros.T, bits)[:, :outputs].T if packed else zeros.float() + (1 << bits - 1)
    if order_D is not None and int(order_D.min()) < 0:
        order_D = None  # written before the order was known
    groups = tensors["scale"].shape[1]
    if order_D is not None and int(order_D.max()) >= groups:
        raise StartupError(f"weight_g_idx names a group that is not among the {groups} of weight_scale", MISMATCH)
    return grouped(unpacked(words, bits)[:, :inputs], bits, tensors["scale"], zeros, order_D)


def _whole(tensors: Mapping[str, Tensor], quantized: Quantized) -> Stored:
    import torch

    from ramify.quant.blocks import as_table, scaled
    from ramify.quant.stored import Int8

    weight_ED, scale, zero = tensors["weight"], tensors["scale"], tensors.get("zeros")
    if zero is not None and not bool((zero.float() != 0).any()):
        zero = None
    table = as_table(scale, len(weight_ED))
    if weight_ED.dtype is torch.int8 and table.shape[1] == 1 and zero is None:
        return Int8(weight_ED, table[:, 0].float().expand(len(weight_ED)).contiguous())
    return scaled(weight_ED, scale, quantized.block if weight_ED.dtype is not torch.int8 else None, zero)


COMPRESSED = Compressed()
