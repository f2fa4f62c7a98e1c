"""Ops of single rows in Triton, in its interpreter, against their references."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ramify.config.stored import int8_row
from ramify.ops.reference import basic, encode, fp8, int8, rope
from ramify.ops.triton.rope import Rope
from ramify.ops.triton.rows import ACTIVATIONS, Rows
from tensors import close, randn

pytestmark = pytest.mark.triton

ROWS, ROPE = Rows(), Rope()
TYPES = {"float32": torch.float32, "float16": torch.float16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)


@types
@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(size: int, offset: float, dtype: torch.dtype) -> None:
    x, residual, weight = (randn(5, size, dtype=dtype, seed=seed) for seed in range(3))
    weight = weight[0]
    close(ROWS.rms_norm(x, weight, 1e-6, offset), basic.rms_norm(x, weight, 1e-6, offset))
    ours, reference = (of(x, residual, weight, 1e-5, offset) for of in (ROWS.add_rms_norm, basic.add_rms_norm))
    close(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])
    assert torch.equal(ROWS.rms_norm(x[3:4], weight, 1e-6)[0], ROWS.rms_norm(x, weight, 1e-6)[3])


@types
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(bias: bool, dtype: torch.dtype) -> None:
    x, residual, weight = (randn(3, 45, dtype=dtype, seed=seed) for seed in range(3))
    numbers = (weight[0], weight[1] if bias else None, 1e-5)
    close(ROWS.layer_norm(x, *numbers), encode.layer_norm(x, *numbers))
    ours, reference = (of(x, residual, *numbers) for of in (ROWS.add_layer_norm, encode.add_layer_norm))
    close(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])


@types
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, dtype: torch.dtype) -> None:
    x = randn(3, 2 * 1030, dtype=dtype) * 4
    close(ROWS.gated(x, activation), basic.gated(x, activation))
    extremes = torch.tensor([[-6e4, -100.0, 0.0, 100.0, 6e4] * 4 + [1.0] * 20], dtype=dtype)
    broken = torch.full((1, 40), float("nan"), dtype=dtype)
    assert ROWS.gated(extremes, activation).isfinite().all()
    assert ROWS.gated(broken, activation).isnan().all()
    if activation != "clamped_swiglu":
        close(ROWS.activate(x, activation), basic.activate(x, activation))
        assert ROWS.activate(broken, activation).isnan().all()


def test_softcap() -> None:
    x = randn(3, 1003, dtype=torch.float32) * 100
    close(ROWS.softcap(x, 30.0), basic.softcap(x, 30.0))


def test_embed() -> None:
    weight, tokens = randn(50, 1033, dtype=torch.float16), torch.tensor([0, 49, 7, 7])
    assert torch.equal(ROWS.embed(tokens, weight), basic.embed(tokens, weight))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.int8, fp8.KIND])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "rotated", "page", "interleaved", "normed"),
    [
        (4, 2, 32, 32, 4, False, False),
        (9, 1, 20, 20, 1, True, True),
        (3, 3, 22, 12, 3, False, True),
        (4, 2, 16, 0, 16, False, False),
    ],
)
def test_qkv_rope_store(
    heads: int,
    kv_heads: int,
    size: int,
    rotated: int,
    page: int,
    interleaved: bool,
    normed: bool,
    stored: torch.dtype,
) -> None:
    tokens, pages, dtype = 5, 7, torch.float16 if stored is torch.float16 else torch.float32
    qkv = randn(tokens, (heads + 2 * kv_heads) * size, dtype=dtype)
    q_norm, k_norm = (randn(size, dtype=dtype, seed=seed) if normed else None for seed in (1, 2))
    angles = randn(tokens, rotated // 2, dtype=torch.float32, seed=3)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    write_at = torch.randperm(pages * page, generator=torch.Generator().manual_seed(4))[:tokens]
    row = int8_row(size) if stored is torch.int8 else size
    pools = [torch.zeros(pages, kv_heads, page, row, dtype=stored) for _ in range(4)]
    arguments = (qkv, heads, q_norm, k_norm, 1e-6, cos, sin)
    ours = ROPE.qkv_rope_store(*arguments, pools[0], pools[1], write_at, interleaved, 0.5)
    reference = rope.qkv_rope_store(*arguments, pools[2], pools[3], write_at, interleaved, 0.5)
    close(ours, reference)
    assert torch.equal(*(int8.from_pool(pools[pool], size, torch.float32) for pool in (1, 3)))
    keys, expected = (int8.from_pool(pool, size, torch.float32) for pool in (pools[0], pools[2]))
    bound = {torch.float32: 1e-5, torch.float16: 2e-3, torch.int8: 1e-2, fp8.KIND: 2**-3}[stored]
    assert (keys - expected).abs().max() <= bound * expected.abs().max()


@types
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_of_a_part_of_something_wider(interleaved: bool, dtype: torch.dtype) -> None:
    wide, angles = randn(4, 9, 48, dtype=dtype), randn(4, 8, dtype=torch.float32, seed=1)
    x, cos, sin = wide[..., 32:], angles.cos().to(dtype), angles.sin().to(dtype)
    close(ROPE.rotate(x, cos, sin, interleaved), rope.rotate(x, cos, sin, interleaved))
    if not interleaved:
        qkv = wide.flatten(1)
        angles = torch.cat((angles, angles, angles), dim=1)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        close(ROPE.rotate_qk(qkv, 3, cos, sin), encode.rotate_qk(qkv, 3, cos, sin))


def test_every_byte_of_e4m3() -> None:
    """Each number, those between two of them and what is just beside these, small and large, and what is none."""
    exact = torch.arange(256, dtype=torch.uint8).view(fp8.KIND).float()
    ordered = exact[exact.isfinite()].sort().values
    ties = (ordered[1:] + ordered[:-1]) / 2
    beside = torch.cat([ties.nextafter(torch.tensor(far)) for far in (float("inf"), -float("inf"))])
    odd = torch.tensor([1e-30, -1e-30, 0.0, 464.0, 465.0, 1e9, -1e9, float("inf"), -float("inf"), float("nan")])
    x = torch.cat((exact, ties, beside, odd))
    x = F.pad(x, (0, -len(x) % 16)).view(-1, 1, 16)
    pools = [torch.zeros(len(x), 1, 1, 16, dtype=fp8.KIND) for _ in range(2)]
    at = torch.arange(len(x))
    ROPE.store(x, pools[0], at)
    rope.store(x, pools[1], at)
    ours, reference = (pool.float() for pool in pools)
    assert torch.equal(ours.isnan(), reference.isnan())
    assert torch.equal(ours.nan_to_num(1e3), reference.nan_to_num(1e3))
    assert torch.equal(ours.flatten()[:256].nan_to_num(1e3), exact.nan_to_num(1e3))


@pytest.mark.parametrize("stored", [torch.float16, torch.int8])
def test_store(stored: torch.dtype) -> None:
    """What is not finite, or nothing at all, too."""
    x = randn(5, 3, 22, dtype=torch.float16)
    x[1, 1, 5], x[2, 0, 21], x[3] = float("nan"), float("inf"), 0.0
    pools = [torch.zeros(3, 3, 4, int8_row(22) if stored is torch.int8 else 22, dtype=stored) for _ in range(2)]
    write_at = torch.tensor([3, 11, 0, 6, 1])
    ROPE.store(x, pools[0], write_at)
    rope.store(x, pools[1], write_at)
    ours, reference = (int8.from_pool(pool, 22, torch.float32) for pool in pools)
    assert torch.equal(ours.isnan(), reference.isnan())
    assert torch.equal(ours.nan_to_num(0.0), reference.nan_to_num(0.0))
