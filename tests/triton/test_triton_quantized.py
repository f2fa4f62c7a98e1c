"""Linears over quantized weights in Triton, in its interpreter, against their references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ramify.ops.reference import fp8, int4, int8
from ramify.ops.triton.quantized import Fp8, Int4, Int8
from tensors import close, randn

pytestmark = pytest.mark.triton

TYPES = {"float32": torch.float32, "float16": torch.float16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
SIZES = [(33, 17), (70, 200)]


def numbers(outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, inputs of very different rows, bias."""
    weight = randn(outputs, inputs, dtype=dtype) * randn(outputs, 1, dtype=dtype, seed=3).exp()
    x = randn(9, inputs, dtype=dtype, seed=2) * randn(9, 1, dtype=dtype, seed=4).exp()
    return weight, x, randn(outputs, dtype=dtype, seed=1)


@types
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_int8(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    """Sums are exact, so that without a bias the numbers are the reference's to the bit."""
    weight, x, bias = numbers(outputs, inputs, dtype)
    made = Int8()
    packed, stored = made.pack(weight), int8.store(weight)
    plain = made.linear(x, packed, outputs, None)
    assert torch.equal(plain, int8.linear(x, stored, outputs, None))
    close(made.linear(x, packed, outputs, bias), int8.linear(x, stored, outputs, bias))
    assert torch.equal(made.linear(x[8:], packed, outputs, None), plain[8:])
    tokens = torch.tensor([0, outputs - 1, 2, 2])
    assert torch.equal(made.embed(tokens, packed, inputs), int8.embed(tokens, stored, inputs))


def test_int8_of_what_is_not_finite() -> None:
    weight, x, _ = numbers(20, 40, torch.float32)
    x[1, 3], x[2, 39], x[3], weight[7, 2] = float("nan"), float("-inf"), 0.0, float("inf")
    made, stored = Int8(), int8.store(weight)
    y = made.linear(x, made.pack(weight), 20, None)
    assert torch.equal(y.isnan(), int8.linear(x, stored, 20, None).isnan())
    assert (y[3, :7] == 0).all()


@types
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_int4(ordered: None, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    weight, x, bias = numbers(outputs, inputs, dtype)
    made = Int4()
    packed, stored = made.pack(weight), int4.store(weight)
    assert packed.nbytes == stored.nbytes
    whole = made.linear(x, packed, outputs, bias)
    close(whole, int4.wide_linear(x, stored, outputs, bias))
    assert torch.equal(made.linear(x[8:], packed, outputs, bias), whole[8:])


@types
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_fp8(ordered: None, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    """Inputs need no rounding: the interpreter rounds to e4m3 without carrying over."""
    weight, x, bias = numbers(outputs, inputs, dtype)
    x = fp8.number_and_scale(x)[0].to(dtype)  # the largest of each row is 448, so that its scale is 1
    packed = fp8.store(weight)
    whole = Fp8().linear(x, packed, outputs, bias)
    close(whole, fp8.linear(x, packed, outputs, bias))
    assert torch.equal(Fp8().linear(x[8:], packed, outputs, bias), whole[8:])


def test_fp8_is_close_to_what_it_stands_for() -> None:
    weight, x = randn(64, 256, dtype=torch.float32), randn(5, 256, dtype=torch.float32, seed=1)
    exact = x @ weight.T
    assert (fp8.linear(x, fp8.store(weight), 64, None) - exact).norm() < 0.06 * exact.norm()
