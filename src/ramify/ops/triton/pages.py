"""Numbers of pages in e4m3: the type of the device where it converts that, and bytes that are taken apart elsewhere.

e4m3 is what float16 is, with the upper bit of the exponent and the lower bits of the mantissa left out: so a byte is a
float16 of 2^-8 its size, and a float32 is rounded by an addition to its bits.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.reference.fp8 import KIND

CONVERTS = (8, 9)  # the compute capability from which there are instructions for e4m3
LARGEST = tl.constexpr(448.0)
NORMAL = tl.constexpr(0.015625)  # the smallest number that is stored with all its bits


@triton.jit
def held(x):
    """float32 as e4m3 can hold it: see `ops.reference.fp8.cast`."""
    return tl.where(tl.abs(x) < float("inf"), tl.minimum(tl.maximum(x, -LARGEST), LARGEST), float("nan"))


@triton.jit
def as_bytes(x):
    """float32 as bytes of e4m3, rounded to the nearest, ties to even."""
    most = tl.minimum(tl.abs(x), LARGEST)
    bits = most.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    small = (most + 16384.0).to(tl.int32, bitcast=True) - 0x46800000  # the addition rounds to multiples of 2^-9
    kept = tl.where(most < NORMAL, small, normal)
    kept = tl.where(tl.abs(x) < float("inf"), kept, 0x7F)
    return (kept | ((x.to(tl.int32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def numbers(x, kind: tl.constexpr):
    """What was loaded from a page, as numbers of a type; scales of int8 are left to others."""
    if x.dtype == tl.uint8:
        wide = x.to(tl.uint16)
        half = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
        return tl.where((wide & 0x7F) == 0x7F, float("nan"), half).to(kind)
    else:
        return x.to(kind)


def launched(pool_PKSC: Tensor) -> Tensor:
    """A pool as kernels take it on its device. In the interpreter as bytes: it takes NaN of the type for a number."""
    if pool_PKSC.dtype is not KIND or converts(pool_PKSC.device):
        return pool_PKSC
    return pool_PKSC.view(torch.uint8)


def converts(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CONVERTS
