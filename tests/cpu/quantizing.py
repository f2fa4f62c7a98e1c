"""Checkpoints in the formats of others, written by what their documents say and not by what ramify reads.

A writer takes a weight [E, D] and gives the tensors that stand for it, by the ends of their names, and what they mean.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from models import make
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

Written = tuple[dict[str, Tensor], Tensor]
LEFT_OUT = ("embed", "lm_head", "norm", "gate.weight", "router", "e_score")


@dataclass(frozen=True)
class Format:
    """`exact`: what is computed are the stored numbers themselves, up to rounding to the model's type."""

    write: Callable[[Tensor], Written]
    config: dict[str, Any]
    exact: bool
    form: str = "Floats"


# -- whole numbers -----------------------------------------------------------------------------------------------------


def whole_numbers(weight: Tensor, bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers from 0 to 2 ** bits - 1, and a scale and a zero per output and group."""
    blocks = weight.unflatten(1, (-1, group))
    top = 2**bits - 1
    low, high = blocks.amin(-1), blocks.amax(-1)
    if symmetric:
        scale = torch.maximum(high, -low) / (top // 2)
        zero = torch.full_like(scale, (top + 1) // 2)
    else:
        scale = (high.clamp(min=0) - low.clamp(max=0)) / top
        zero = (-low.clamp(max=0) / scale).round().clamp(0, top)
    scale = scale.half().float()
    whole = ((blocks / scale[..., None]).round() + zero[..., None]).clamp(0, top)
    return whole.flatten(1).to(torch.int64), scale, zero.to(torch.int64)


def meant(whole: Tensor, scale: Tensor, zero: Tensor, group_of: Tensor) -> Tensor:
    return (whole - zero[:, group_of]).float() * scale[:, group_of]


def into_words(numbers: Tensor, bits: int, places: list[int] | None = None) -> Tensor:
    """Along the last dimension; number j of a word stands at place places[j], from its lowest bits."""
    each = 32 // bits
    padded = torch.nn.functional.pad(numbers, (0, -numbers.shape[-1] % each)).unflatten(-1, (-1, each))
    shifts = torch.tensor(places or range(each)) * bits
    words = (padded << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def gptq(bits: int, group: int, symmetric: bool, *, ordered: bool = False, version: int = 1) -> Callable[..., Written]:
    def write(weight: Tensor) -> Written:
        inputs = weight.shape[1]
        size = inputs if group == -1 else group
        order = torch.randperm(inputs, generator=torch.Generator().manual_seed(5)) if ordered else torch.arange(inputs)
        group_of = torch.empty(inputs, dtype=torch.int64)
        group_of[order] = torch.arange(inputs) // size
        sorted_whole, scale, zero = whole_numbers(weight[:, order], bits, size, symmetric)
        whole = torch.empty_like(sorted_whole)
        whole[:, order] = sorted_whole
        stored_zero = zero - 1 & 2**bits - 1 if version == 1 else zero
        pieces = {
            "qweight": into_words(whole, bits).T.contiguous(),
            "qzeros": into_words(stored_zero.T, bits),
            "scales": scale.T.half().contiguous(),
            "g_idx": group_of.to(torch.int32),
        }
        return pieces, meant(whole, scale, zero, group_of)

    return write


def awq(group: int) -> Callable[[Tensor], Written]:
    def write(weight: Tensor) -> Written:
        whole, scale, zero = whole_numbers(weight, 4, group, symmetric=False)
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        places = [order.index(j) for j in range(8)]
        pieces = {
            "qweight": into_words(whole.T, 4, places),
            "qzeros": into_words(zero.T, 4, places),
            "scales": scale.T.half().contiguous(),
        }
        return pieces, meant(whole, scale, zero, torch.arange(weight.shape[1]) // group)

    return write


def pack_quantized(
    bits: int, group: int, symmetric: bool, *, ordered: bool = False, bytes_of_zeros: bool = False
) -> Callable[..., Written]:
    def write(weight: Tensor) -> Written:
        size = weight.shape[1] if group == -1 else group
        columns = torch.arange(weight.shape[1])
        if ordered:
            columns = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(6))
        group_of = torch.empty_like(columns)
        group_of[columns] = torch.arange(weight.shape[1]) // size
        sorted_whole, scale, zero = whole_numbers(weight[:, columns], bits, size, symmetric)
        whole = torch.empty_like(sorted_whole)
        whole[:, columns] = sorted_whole
        pieces = {
            "weight_packed": into_words(whole, bits),
            "weight_scale": scale.bfloat16() if symmetric else scale,
            "weight_shape": torch.tensor(weight.shape),
        }
        scale = pieces["weight_scale"].float()
        if not symmetric:
            middle = 2 ** (bits - 1)
            pieces["weight_zero_point"] = (
                (zero - middle).to(torch.int8) if bytes_of_zeros else into_words(zero.T, bits).T.contiguous()
            )
        if ordered:
            pieces["weight_g_idx"] = group_of.to(torch.int32)
        return pieces, meant(whole, scale, zero, group_of)

    return write


def int_quantized(weight: Tensor) -> Written:
    scale = weight.abs().amax(1, keepdim=True) / 127.5  # so that -128 happens
    whole = (weight / scale).round().clamp(-128, 127)
    return {"weight": whole.to(torch.int8), "weight_scale": scale}, whole * scale


def int_quantized_once(weight: Tensor) -> Written:
    scale = weight.abs().max() / 127
    whole = (weight / scale).round()
    return {"weight": whole.to(torch.int8), "weight_scale": scale[None].bfloat16()}, whole * scale.bfloat16().float()


def int_quantized_zeros(weight: Tensor) -> Written:
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    scale = (high - low) / 255
    zero = (-128 - low / scale).round()
    whole = (weight / scale + zero).round().clamp(-128, 127)
    pieces = {"weight": whole, "weight_zero_point": zero}
    return {name: each.to(torch.int8) for name, each in pieces.items()} | {"weight_scale": scale}, (
        whole - zero
    ) * scale


def llm_int8(weight: Tensor) -> Written:
    most = weight.abs().amax(1)
    whole = (weight * (127 / most[:, None])).round()
    pieces = {"weight": whole.to(torch.int8), "SCB": most, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return pieces, whole * most[:, None] / 127


# -- floats ------------------------------------------------------------------------------------------------------------


def fp8(strategy: str, name: str = "weight_scale", block: tuple[int, int] = (32, 48)) -> Callable[[Tensor], Written]:
    def write(weight: Tensor) -> Written:
        outputs, inputs = weight.shape
        tall, wide = {"tensor": weight.shape, "channel": (1, inputs), "block": block}[strategy]
        scale = torch.empty(-(-outputs // tall), -(-inputs // wide))
        for row in range(scale.shape[0]):
            for column in range(scale.shape[1]):
                part = weight[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
                scale[row, column] = part.abs().max() / 448
        each = scale.repeat_interleave(tall, 0)[:outputs].repeat_interleave(wide, 1)[:, :inputs]
        stored = (weight / each).to(torch.float8_e4m3fn)
        kept = scale.reshape(()) if strategy == "tensor" and name == "weight_scale" else scale
        return {"weight": stored, name: kept, "input_scale": torch.tensor(0.5)}, stored.float() * each

    return write


E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def mxfp4(weight: Tensor) -> Written:
    blocks = weight.unflatten(1, (-1, 32))
    power = (blocks.abs().amax(-1) / 6).log2().ceil()
    table = torch.tensor([*E2M1, *(-x for x in E2M1)])
    codes = ((blocks / power.exp2()[..., None])[..., None] - table).abs().argmin(-1)
    pairs = codes.flatten(1).unflatten(1, (-1, 2))
    pieces = {
        "weight_packed": (pairs[..., 0] + 16 * pairs[..., 1]).to(torch.uint8),
        "weight_scale": (power + 127).to(torch.uint8),
    }
    return pieces, (table[codes] * power.exp2()[..., None]).flatten(1)


NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def nf4(nested: bool, kind: str = "nf4") -> Callable[[Tensor], Written]:
    """In blocks of 64 of all the weight's numbers in a row."""

    def write(weight: Tensor) -> Written:
        table = torch.tensor(NF4 if kind == "nf4" else [0, 0.0052, 0.6667, 1, 0.3333, 0.5, 0.1667, 0.25] * 2)
        if kind == "fp4":
            table[8:] *= -1
        flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).unflatten(0, (-1, 64))
        most = flat.abs().amax(1)
        state: dict[str, Any] = {
            "quant_type": kind,
            "blocksize": 64,
            "dtype": "float32",
            "shape": list(weight.shape),
        }
        pieces: dict[str, Tensor] = {"weight.quant_map": table, "weight.absmax": most}
        if nested:
            numbers, offset = torch.linspace(-1, 1, 256), most.mean()
            shifted = torch.nn.functional.pad(most - offset, (0, -len(most) % 256)).unflatten(0, (-1, 256))
            outer = shifted.abs().amax(1)
            codes = ((shifted / outer[:, None])[..., None] - numbers).abs().argmin(-1)
            most = (numbers[codes] * outer[:, None]).flatten()[: len(most)] + offset
            pieces |= {
                "weight.absmax": codes.flatten()[: len(most)].to(torch.uint8),
                "weight.nested_absmax": outer,
                "weight.nested_quant_map": numbers,
            }
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        codes = ((flat / most[:, None])[..., None] - table).abs().argmin(-1)
        text = json.dumps(state).encode()
        count = weight.numel()
        pairs = codes.flatten()[:count].unflatten(0, (-1, 2))
        pieces |= {
            "weight": (16 * pairs[:, :1] + pairs[:, 1:]).to(torch.uint8),
            f"weight.quant_state.bitsandbytes__{kind}": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }
        return pieces, (table[codes] * most[:, None]).flatten()[:count].view(weight.shape)

    return write


# -- checkpoints -------------------------------------------------------------------------------------------------------


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*\\.mlp\\.gate$"],
    }


def gptq_config(bits: int, group: int, sym: bool, order: bool = False, version: str = "gptq") -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "sym": sym,
        "desc_act": order,
        "checkpoint_format": version,
    }


BLOCKS = {"quant_method": "fp8", "weight_block_size": [32, 48], "modules_to_not_convert": ["lm_head"]}
WHOLE8 = {"num_bits": 8, "type": "int", "symmetric": True}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}

FORMATS: dict[str, Format] = {
    "fp8-block": Format(fp8("block", "weight_scale_inv"), BLOCKS, True),
    "fp8-tensor": Format(fp8("tensor"), {"quant_method": "fp8", "activation_scheme": "static"}, True),
    "fbgemm-channel": Format(fp8("channel"), {"quant_method": "fbgemm_fp8"}, True),
    "ct-fp8-channel": Format(fp8("channel"), compressed("float-quantized", **FLOAT8, strategy="channel"), True),
    "ct-fp8-block": Format(
        fp8("block"), compressed("float-quantized", **FLOAT8, strategy="block", block_structure=[32, 48]), True
    ),
    "ct-w8a8": Format(int_quantized, compressed("int-quantized", **WHOLE8, strategy="channel"), False, "Int8"),
    "ct-w8a8-tensor": Format(
        int_quantized_once, compressed("int-quantized", **WHOLE8, strategy="tensor"), False, "Int8"
    ),
    "ct-w8a8-zeros": Format(
        int_quantized_zeros, compressed("int-quantized", num_bits=8, symmetric=False, strategy="channel"), True
    ),
    "ct-w4a16": Format(
        pack_quantized(4, 32, True), compressed("pack-quantized", num_bits=4, group_size=32), False, "Int4"
    ),
    "ct-w4a16-zeros": Format(
        pack_quantized(4, 32, False),
        compressed("pack-quantized", num_bits=4, group_size=32, symmetric=False),
        False,
        "Int4",
    ),
    "ct-w4a16-order": Format(
        pack_quantized(4, 32, False, ordered=True, bytes_of_zeros=True),
        compressed("pack-quantized", num_bits=4, group_size=32, symmetric=False, actorder="group"),
        False,
        "Int4",
    ),
    "ct-w4a16-channel": Format(
        pack_quantized(4, -1, True), compressed("pack-quantized", num_bits=4, strategy="channel"), False, "Int4"
    ),
    "ct-w8a16": Format(pack_quantized(8, 32, True), compressed("pack-quantized", num_bits=8, group_size=32), True),
    "ct-w8a16-channel": Format(
        pack_quantized(8, -1, True), compressed("pack-quantized", num_bits=8, strategy="channel"), False, "Int8"
    ),
    "ct-mxfp4": Format(
        mxfp4, compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32, strategy="group"), True
    ),
    "gptq-4-sym": Format(gptq(4, 32, True), gptq_config(4, 32, True), False, "Int4"),
    "gptq-4-asym": Format(gptq(4, 32, False), gptq_config(4, 32, False), False, "Int4"),
    "gptq-4-order": Format(gptq(4, 32, True, ordered=True), gptq_config(4, 32, True, True), False, "Int4"),
    "gptq-4-asym-order-v2": Format(
        gptq(4, 32, False, ordered=True, version=2), gptq_config(4, 32, False, True, "gptq_v2"), False, "Int4"
    ),
    "gptq-4-group-8": Format(gptq(4, 8, True), gptq_config(4, 8, True), True),
    "gptq-8": Format(gptq(8, 32, True), gptq_config(8, 32, True), True),
    "gptq-8-order": Format(gptq(8, 32, False, ordered=True), gptq_config(8, 32, False, True), True),
    "gptq-8-channel": Format(gptq(8, -1, True), gptq_config(8, -1, True), False, "Int8"),
    "awq": Format(awq(32), AWQ, False, "Int4"),
    "bnb-nf4": Format(nf4(False), BNB4, True),
    "bnb-nf4-nested": Format(nf4(True), {**BNB4, "bnb_4bit_use_double_quant": True}, True),
    "bnb-fp4": Format(nf4(False, "fp4"), {**BNB4, "bnb_4bit_quant_type": "fp4"}, True),
    "bnb-int8": Format(llm_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, False, "Int8"),
}


def quantizable(name: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and name.endswith(".weight") and not any(word in name for word in LEFT_OUT)


def save_quantized(family: str, folder: Path, how: Format, keep: tuple[str, ...] = ()) -> PreTrainedModel:
    """A tiny model whose linears are quantized, but for those that `keep` names; the reference has what they mean."""
    make(family).save_pretrained(folder)
    meaning = folder / "meaning"
    shutil.copytree(folder, meaning)
    save_file(rewrite(folder, how, keep), meaning / "model.safetensors", {"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(meaning, dtype=torch.float32, attn_implementation="eager").eval()


def rewrite(folder: Path, how: Format, keep: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Quantize a saved checkpoint where it stands; returns the weights that its numbers mean."""
    tensors: dict[str, Tensor] = {}
    meanings = load_file(folder / "model.safetensors")
    for name, tensor in meanings.items():
        if not quantizable(name, tensor) or any(word in name for word in keep):
            tensors[name] = tensor
            continue
        pieces, meanings[name] = how.write(tensor.float())
        tensors |= {f"{name.removesuffix('weight')}{end}": piece.contiguous() for end, piece in pieces.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": how.config}))
    return {name: tensor.contiguous() for name, tensor in meanings.items()}
