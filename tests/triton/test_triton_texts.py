"""Attention within texts in Triton, in its interpreter, against the reference; and that a text's bits are its own."""

from __future__ import annotations

import pytest
import torch

from ramify.ops.reference import encode
from ramify.ops.triton.texts import Texts
from tensors import close, randn

pytestmark = pytest.mark.triton

TEXTS = Texts()
TYPES = {"float32": torch.float32, "float16": torch.float16}


def laid_out(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    counts_N = torch.tensor(counts, dtype=torch.int32)
    return counts_N.cumsum(0).int() - counts_N, counts_N


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("window", [0, 1, 70])
@pytest.mark.parametrize(("counts", "heads", "size"), [([1, 150, 64, 7], 2, 32), ([66], 1, 20), ([3] * 9, 3, 64)])
def test_attend_texts(counts: list[int], heads: int, size: int, window: int, dtype: torch.dtype) -> None:
    qkv, places = randn(sum(counts), 3 * heads * size, dtype=dtype), laid_out(counts)
    ours = TEXTS.attend_texts(qkv, heads, *places, window, 0.2)
    close(ours, encode.attend_texts(qkv, heads, *places, window, 0.2))


@pytest.mark.parametrize("window", [0, 33])
def test_a_text_has_its_bits_whatever_stands_beside_it(window: int) -> None:
    counts = [5, 100, 70]
    qkv = randn(sum(counts), 3 * 2 * 16, dtype=torch.float16)
    together = TEXTS.attend_texts(qkv, 2, *laid_out(counts), window, 0.3)
    alone = TEXTS.attend_texts(qkv[5:105], 2, *laid_out([100]), window, 0.3)
    assert torch.equal(alone, together[5:105])


def test_what_is_not_finite_stays_in_its_text() -> None:
    qkv = randn(90, 3 * 16, dtype=torch.float32)
    clean = TEXTS.attend_texts(qkv, 1, *laid_out([40, 50]), 0, 0.3)
    qkv[41] = float("nan")
    broken = TEXTS.attend_texts(qkv, 1, *laid_out([40, 50]), 0, 0.3)
    assert torch.equal(broken[:40], clean[:40])
    assert broken[40:].isnan().all()
