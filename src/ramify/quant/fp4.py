"""Numbers in four bits by a table: FP4 (OCP Microscaling Formats), NF4 (Dettmers et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.quant.stored import Floats
from ramify.weights.arrange import FP4, SCALE_BIAS

MX_GROUP = 32


def mxfp4(blocks_EB: Tensor, scale_EG: Tensor) -> Floats:
    """E2M1, two to a byte, the lower half first; groups of 32 with a power of two each."""
    table = torch.tensor(FP4)
    power_EG = scale_EG.view(torch.uint8).float() - SCALE_BIAS

    def rows(first: int, last: int) -> Tensor:
        byte = blocks_EB[first:last]
        numbers_RD = table[torch.stack((byte & 15, byte >> 4), dim=-1).int()].flatten(1)
        return numbers_RD * torch.exp2(power_EG[first:last]).repeat_interleave(MX_GROUP, 1)

    return Floats((len(blocks_EB), 2 * blocks_EB.shape[1]), rows)
