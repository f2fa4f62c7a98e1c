"""The compiled kernels of encoders against their references, for every instruction set that this machine has."""

from __future__ import annotations

import ctypes

import pytest
import torch
from compiled import types

from ramify.ops.cpu.encoding import CompiledEncoding
from ramify.ops.cpu.library import load
from ramify.ops.cpu.record import Functions
from ramify.ops.reference import encode
from tensors import close, randn

pytestmark = pytest.mark.skipif(load() is None, reason="the kernels are not compiled in this installation")


@pytest.fixture
def kernels(library: ctypes.CDLL) -> CompiledEncoding:
    return CompiledEncoding(Functions(library))


@types
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [1, 8, 33, 64, 1000])
def test_layer_norm(kernels: CompiledEncoding, size: int, bias: bool, dtype: torch.dtype) -> None:
    x, residual = randn(21, size, dtype=dtype) * 3 + 7, randn(21, size, dtype=dtype, seed=1)
    weight, b = randn(size, dtype=dtype, seed=2), randn(size, dtype=dtype, seed=3) if bias else None
    close(kernels.layer_norm(x, weight, b, 1e-5), encode.layer_norm(x, weight, b, 1e-5))
    ours, theirs = (f(x, residual, weight, b, 1e-5) for f in (kernels.add_layer_norm, encode.add_layer_norm))
    close(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    for row in range(21):
        alone = kernels.layer_norm(x[row : row + 1], weight, b, 1e-5)
        assert torch.equal(alone[0], kernels.layer_norm(x, weight, b, 1e-5)[row])


@types
@pytest.mark.parametrize("size", [16, 20, 64])
def test_rotate(kernels: CompiledEncoding, size: int, dtype: torch.dtype) -> None:
    qkv, angles = randn(11, 3 * 4 * size, dtype=dtype), randn(11, size // 2, dtype=torch.float32, seed=1)
    cos, sin = (each.to(dtype).float() for each in (angles.cos(), angles.sin()))
    close(kernels.rotate_qk(qkv.clone(), 4, cos, sin), encode.rotate_qk(qkv, 4, cos, sin))


COUNTS = [1, 64, 3, 65, 130, 17, 200]


@types
@pytest.mark.parametrize("window", [0, 1, 8, 64, 500])
@pytest.mark.parametrize(("heads", "size"), [(4, 16), (2, 64), (3, 20)])
def test_attention_within_texts(
    kernels: CompiledEncoding, heads: int, size: int, window: int, dtype: torch.dtype
) -> None:
    """Each text as it is alone, to the bit, whatever stands before and behind it."""
    qkv = randn(sum(COUNTS), 3 * heads * size, dtype=dtype) * 2
    counts = torch.tensor(COUNTS, dtype=torch.int32)
    starts = (counts.cumsum(0) - counts).int()
    ours = kernels.attend_texts(qkv, heads, starts, counts, window, size**-0.5)
    close(ours, encode.attend_texts(qkv.float(), heads, starts, counts, window, size**-0.5).to(dtype))
    for start, count in zip(starts.tolist(), COUNTS, strict=True):
        part = qkv[start : start + count]
        nought, whole = torch.zeros(1, dtype=torch.int32), torch.tensor([count], dtype=torch.int32)
        alone = kernels.attend_texts(part, heads, nought, whole, window, size**-0.5)
        assert torch.equal(alone, ours[start : start + count])


def test_attention_keeps_nan_in_its_text(kernels: CompiledEncoding) -> None:
    qkv = randn(40, 3 * 2 * 16, dtype=torch.float32)
    qkv[7] = float("nan")
    starts, counts = torch.tensor([0, 20], dtype=torch.int32), torch.tensor([20, 20], dtype=torch.int32)
    out = kernels.attend_texts(qkv, 2, starts, counts, 0, 0.25)
    assert out[:20].isnan().any()
    assert out[20:].isfinite().all()
