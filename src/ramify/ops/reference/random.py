"""Random numbers that belong to a token: a counter-based generator keyed by (seed, choice, position, purpose).

No state is kept, so recomputing a token after a preemption, in another batch or on another machine draws the same
number. Philox-4x32-10 (Salmon et al. 2011), in 64-bit integer tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN = 0  # purposes: one stream of numbers each

_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a x b, both below 2^32; the 64-bit product may wrap into the sign, the bits are right."""
    product = a * b
    return (product >> 32) & _MASK, product & _MASK


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four 32-bit words for each element of a 128-bit counter under a 64-bit key, all int64 tensors below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(_MULTIPLY[0], c0)
        high1, low1 = _product(_MULTIPLY[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seeds: Tensor, choices: Tensor, positions: Tensor, purpose: int = TOKEN) -> Tensor:
    """Doubles in the open interval (0, 1), one per (seed, choice, position); int64 in, 52 random bits out."""
    zero = torch.zeros_like(positions)
    counter = (positions & _MASK, choices & _MASK, zero + purpose, zero)
    a, b, _, _ = philox(counter, (seeds & _MASK, (seeds >> 32) & _MASK))
    bits = ((a >> 6) << 26) | (b >> 6)
    return (bits.double() + 0.5) * 2.0**-52
