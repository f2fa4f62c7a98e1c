"""Whole numbers in few bits, with a scale and perhaps a zero per group of inputs: what GPTQ, AWQ and others share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.config.stored import GROUP
from ramify.quant.stored import Floats, Int4, Int8, Stored

WORD = 32  # bits


def unpacked(words: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """int32 [R, C] as numbers [R, C * 32 / bits] in uint8, the lowest bits first; with `order`, number j of a word is
    its order[j]-th.
    """
    byte = words.contiguous().view(torch.uint8)
    if bits == 8:
        return byte
    assert bits == 4
    numbers = torch.stack((byte & 15, byte >> 4), dim=-1).flatten(1)
    return numbers if order is None else numbers.unflatten(1, (-1, WORD // bits))[:, :, list(order)].flatten(1)


def grouped(
    whole_ED: Tensor, bits: int, scale_EG: Tensor, zero_EG: Tensor | None = None, group_of_D: Tensor | None = None
) -> Stored:
    """(whole - zero) * scale, where `whole` is from 0 to 2 ** bits - 1. Without zeros they are in the middle.

    Inputs are in groups of equal size in their order, or as `group_of_D` has them.
    """
    middle = 1 << bits - 1
    inputs, groups = whole_ED.shape[1], scale_EG.shape[1]
    scale_EG = scale_EG.float()
    if zero_EG is not None and bool((zero_EG == middle).all()):
        zero_EG = None
    size, order_D = _order(inputs, groups, group_of_D)
    if bits == 8 and groups == 1 and zero_EG is None:
        return Int8((whole_ED ^ 128).view(torch.int8), scale_EG[:, 0])
    if bits == 4 and size is not None and (size % GROUP == 0 or groups == 1):
        half_ED = whole_ED if order_D is None else whole_ED[:, order_D]
        offset_EG = None if zero_EG is None else (middle - zero_EG.float()) * scale_EG
        return Int4(half_ED.contiguous(), scale_EG, size, offset_EG, order_D)
    return _floats(whole_ED, middle, scale_EG, zero_EG, _plain_groups(inputs, groups, group_of_D))


def _plain_groups(inputs: int, groups: int, group_of_D: Tensor | None) -> Tensor:
    if group_of_D is not None:
        return group_of_D.long()
    return torch.arange(inputs) // -(-inputs // groups)


def _order(inputs: int, groups: int, group_of_D: Tensor | None) -> tuple[int | None, Tensor | None]:
    """The size of groups, and the order of inputs that puts each together (None: they are); no size where groups
    differ in it.
    """
    size = -(-inputs // groups)
    at_D = torch.arange(inputs) // size
    if group_of_D is None or bool((group_of_D == at_D).all()):
        return size, None
    order_D = group_of_D.long().argsort(stable=True)
    return (size, order_D) if bool((group_of_D[order_D] == at_D).all()) else (None, None)


def _floats(whole_ED: Tensor, middle: int, scale_EG: Tensor, zero_EG: Tensor | None, group_of_D: Tensor) -> Floats:
    def rows(first: int, last: int) -> Tensor:
        zero = middle if zero_EG is None else zero_EG[first:last].float()[:, group_of_D]
        return (whole_ED[first:last].float() - zero) * scale_EG[first:last][:, group_of_D]

    return Floats((whole_ED.shape[0], whole_ED.shape[1]), rows)


def padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """With zeros behind both ends."""
    return F.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))
