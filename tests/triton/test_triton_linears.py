"""Linears in Triton, in its interpreter: against their references, and that a row's bits are its own."""

from __future__ import annotations

import pytest
import torch

from ramify.ops.reference import basic
from ramify.ops.triton.linear import Linears, slices_of
from ramify.ops.triton.tiles import tile_for
from tensors import close, randn

pytestmark = pytest.mark.triton

LINEARS = Linears()
TYPES = {"float32": torch.float32, "float16": torch.float16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)


@types
@pytest.mark.parametrize(
    ("outputs", "inputs", "bias"),
    [(33, 17, True), (100, 70, False), pytest.param(130, 600, True, marks=pytest.mark.slow)],
)
def test_linear(ordered: None, outputs: int, inputs: int, bias: bool, dtype: torch.dtype) -> None:
    """Every number of rows has the bits that each row has alone."""
    weight, x = randn(outputs, inputs, dtype=dtype), randn(130, inputs, dtype=dtype, seed=2)
    b = randn(outputs, dtype=dtype, seed=1) if bias else None
    whole = LINEARS.linear(x, weight, b)
    exact = basic.linear(x.double(), weight.double(), None if b is None else b.double())
    close(whole, exact.to(dtype))
    for first, end in ((0, 1), (129, 130), (3, 20), (0, 65)):
        assert torch.equal(LINEARS.linear(x[first:end], weight, b), whole[first:end])


def test_slices_are_added_alike_in_one_program_and_in_several(ordered: None) -> None:
    dtype = torch.float32
    weight, x, bias = randn(20, 3100, dtype=dtype), randn(66, 3100, dtype=dtype, seed=2), randn(20, dtype=dtype, seed=3)
    assert slices_of(20, 3100)[0] > 2
    many = LINEARS.linear(x, weight, bias)
    close(many, basic.linear(x.double(), weight.double(), bias.double()).to(dtype))
    assert torch.equal(LINEARS.linear(x[64:], weight, bias), many[64:])


def test_rows_that_stand_apart() -> None:
    weight, wide = randn(20, 32, dtype=torch.float32), randn(3, 64, dtype=torch.float32)
    assert torch.equal(
        LINEARS.linear(wide[:, 16:48], weight, None), LINEARS.linear(wide[:, 16:48].clone(), weight, None)
    )


def test_slices_cover_what_there_is_and_depend_on_the_weight_alone() -> None:
    for outputs in (64, 4096, 6144, 28672, 151936):
        for inputs in (64, 1000, 4096, 14336):
            slices, size = slices_of(outputs, inputs)
            assert (slices - 1) * size < inputs <= slices * size
            assert size % 128 == 0
    assert slices_of(4096, 4096)[0] > 1
    assert slices_of(28672, 4096)[0] == 1


def test_matrix_instructions_have_outputs_enough_for_wgmma() -> None:
    assert all(tile_for(tokens, element).outputs >= 64 for tokens in (1, 64, 65, 9000) for element in (2, 4))
