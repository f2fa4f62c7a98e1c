"""Weights as compressed-tensors has them: what `ramify quantize` writes, and other engines read as well.

Shapes: E outputs, D inputs, G groups. `heat_D` is the mean square of each input over some text, all ones without any:
an error in a weight counts by what its input usually is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.config.stored import GROUP

SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of the largest weight of a group: what is beyond is cut off
LARGEST_E4M3 = 448.0
BLOCK = 1 << 22  # numbers that are looked at together
EACH_TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}


@dataclass(frozen=True)
class Writer:
    """One scheme. `write` gives the tensors of a weight by the ends of their names; `config` stands in config.json.
    Weights whose inputs are no multiple of `multiple` stay as they are.
    """

    write: Callable[[Tensor, Tensor], dict[str, Tensor]]
    layout: str
    config: dict[str, Any]
    multiple: int = 1


def int8(weight_ED: Tensor, heat_D: Tensor) -> dict[str, Tensor]:
    """A scale per output, so that the largest weight is 127."""
    scale_E1 = _scale(weight_ED.float().abs().amax(1, keepdim=True), 127)
    whole = (weight_ED.float() / scale_E1).round().clamp(-127, 127).to(torch.int8)
    return {"weight": whole, "weight_scale": scale_E1}


def float8(weight_ED: Tensor, heat_D: Tensor) -> dict[str, Tensor]:
    scale_E1 = _scale(weight_ED.float().abs().amax(1, keepdim=True), LARGEST_E4M3)
    return {"weight": (weight_ED.float() / scale_E1).to(torch.float8_e4m3fn), "weight_scale": scale_E1}


def int4(weight_ED: Tensor, heat_D: Tensor) -> dict[str, Tensor]:
    """Groups of 32, numbers from -8 to 7; of several scales that which leaves the least error, weighed by heat."""
    rows = max(BLOCK // weight_ED.shape[1], 1)
    parts = [_int4(some, heat_D) for some in weight_ED.split(rows)]
    return {
        "weight_packed": torch.cat([packed for packed, _ in parts]),
        "weight_scale": torch.cat([scale for _, scale in parts]),
        "weight_shape": torch.tensor(weight_ED.shape),
    }


def _int4(weight_ED: Tensor, heat_D: Tensor) -> tuple[Tensor, Tensor]:
    groups, heat = weight_ED.float().unflatten(1, (-1, GROUP)), heat_D.float().view(1, -1, GROUP)
    most = groups.abs().amax(-1, keepdim=True)
    best_scale, least = torch.zeros_like(most), torch.full_like(most, float("inf"))
    for share in SHRUNK:
        scale = _scale(most * share, 7.5).bfloat16().float()
        error = ((_whole4(groups, scale) * scale - groups).square() * heat).sum(-1, keepdim=True)
        best_scale, least = torch.where(error < least, scale, best_scale), torch.minimum(error, least)
    whole = _whole4(groups, best_scale).flatten(1).to(torch.int32) + 8
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return (whole.unflatten(1, (-1, 8)) << shifts).sum(-1, dtype=torch.int32), best_scale[..., 0].bfloat16()


def _whole4(groups: Tensor, scale: Tensor) -> Tensor:
    return (groups / scale).round().clamp(-8, 7)


def _scale(most: Tensor, largest: float) -> Tensor:
    """Where everything is zero any scale will do, but not zero."""
    return torch.where(most > 0, most / largest, torch.ones_like(most))


WRITERS = {
    "w8a8": Writer(
        int8,
        "int-quantized",
        {
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": {**EACH_TOKEN, "type": "int"},
        },
    ),
    "int4": Writer(
        int4,
        "pack-quantized",
        {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}},
        GROUP,
    ),
    "fp8": Writer(
        float8,
        "float-quantized",
        {
            "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
            "input_activations": {**EACH_TOKEN, "type": "float"},
        },
    ),
}


def config_of(writer: Writer, left_out: list[str]) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint in which all linears but some are quantized."""
    return {
        "quant_method": "compressed-tensors",
        "format": writer.layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], **writer.config}},
        "ignore": left_out,
    }
