"""Blocks of ggml, taken apart. Rows are bytes [E, blocks x bytes of one]; K numbers of a block, B blocks of a row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ramify.quant.stored import Floats, Int4, Stored

SMALL, LARGE = 32, 256


def _blocks(rows: Tensor, size: int) -> Tensor:
    return rows.unflatten(1, (-1, size))


def _half(bytes_EBk: Tensor) -> Tensor:
    """Two bytes of a block as a number: [E, B]."""
    return bytes_EBk.contiguous().view(torch.float16)[..., 0].float()


def _halves(bytes_EBk: Tensor) -> Tensor:
    """The lower halves, then the higher ones."""
    return torch.cat((bytes_EBk & 15, bytes_EBk >> 4), dim=-1)


def _fifth(bytes_EB4: Tensor) -> Tensor:
    """Bit k of four bytes, for each of 32 numbers, in its place."""
    bits = bytes_EB4[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(-2) << 4


def q4_0(rows: Tensor) -> Int4:
    blocks = _blocks(rows, 18)
    return Int4(_halves(blocks[..., 2:]).flatten(1), _half(blocks[..., :2]), SMALL)


def q4_1(rows: Tensor) -> Int4:
    blocks = _blocks(rows, 20)
    scale, least = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    return Int4(_halves(blocks[..., 4:]).flatten(1), scale, SMALL, least + 8 * scale)


def _small(rows: Tensor, size: int, numbers: Callable[[Tensor], Tensor]) -> Floats:
    """Blocks of 32 that are computed in the model's type."""

    def some(first: int, last: int) -> Tensor:
        return numbers(_blocks(rows[first:last], size)).flatten(1)

    return Floats((len(rows), rows.shape[1] // size * SMALL), some)


def q5_0(rows: Tensor) -> Floats:
    def numbers(blocks: Tensor) -> Tensor:
        whole = _halves(blocks[..., 6:]) | _fifth(blocks[..., 2:6])
        return (whole.float() - 16) * _half(blocks[..., :2])[..., None]

    return _small(rows, 22, numbers)


def q5_1(rows: Tensor) -> Floats:
    def numbers(blocks: Tensor) -> Tensor:
        whole = _halves(blocks[..., 8:]) | _fifth(blocks[..., 4:8])
        return whole.float() * _half(blocks[..., :2])[..., None] + _half(blocks[..., 2:4])[..., None]

    return _small(rows, 24, numbers)


def q8_0(rows: Tensor) -> Floats:
    def numbers(blocks: Tensor) -> Tensor:
        return blocks[..., 2:].contiguous().view(torch.int8).float() * _half(blocks[..., :2])[..., None]

    return _small(rows, 34, numbers)


# -- blocks of 256 -----------------------------------------------------------------------------------------------------


def _six_bits(packed_EB12: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima [E, B, 8]: the first four have their bits together, the others in two places."""
    first, second, third = packed_EB12.unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=-1)
    least = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=-1)
    return scales, least


def _scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """What numbers are multiplied by, and what is taken off: [E, B, 8]."""
    scales, least = _six_bits(blocks[..., 4:16])
    return _half(blocks[..., :2])[..., None] * scales.float(), _half(blocks[..., 2:4])[..., None] * least.float()


def _nibbles(bytes_EBk: Tensor) -> Tensor:
    """Of every 32 bytes the lower halves and then the higher ones: [E, B, 256]."""
    return _halves(bytes_EBk.unflatten(-1, (4, SMALL))).flatten(-2)


def q4_k(rows: Tensor) -> Int4:
    blocks = _blocks(rows, 144)
    scale, least = _scales(blocks)
    return Int4(_nibbles(blocks[..., 16:]).flatten(1), scale.flatten(1), SMALL, (8 * scale - least).flatten(1))


def _large(rows: Tensor, size: int, numbers: Callable[[Tensor], Tensor]) -> Floats:
    def some(first: int, last: int) -> Tensor:
        return numbers(_blocks(rows[first:last], size)).flatten(1)

    return Floats((len(rows), rows.shape[1] // size * LARGE), some)


def q5_k(rows: Tensor) -> Floats:
    def numbers(blocks: Tensor) -> Tensor:
        scale, least = _scales(blocks)
        bits = blocks[..., None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1  # [E, B, 8, 32]
        whole = _nibbles(blocks[..., 48:]).unflatten(-1, (8, SMALL)) | bits << 4
        return (whole.float() * scale[..., None] - least[..., None]).flatten(1)

    return _large(rows, 176, numbers)


def q6_k(rows: Tensor) -> Floats:
    def numbers(blocks: Tensor) -> Tensor:
        low = blocks[..., :128].unflatten(-1, (2, 2, SMALL))  # two runs of 128: 64 bytes, and 32 with the upper bits
        high = blocks[..., 128:192].unflatten(-1, (2, 1, SMALL))
        halves = torch.cat((low & 15, low >> 4), dim=-2)
        upper = high >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
        whole = (halves | upper << 4).flatten(-3).unflatten(-1, (16, 16)).float() - 32
        scale = blocks[..., 192:208].contiguous().view(torch.int8).float() * _half(blocks[..., 208:])[..., None]
        return (whole * scale[..., None]).flatten(1)

    return _large(rows, 210, numbers)


READ: dict[str, Callable[[Tensor], Stored]] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
}
