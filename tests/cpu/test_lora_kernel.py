"""What adapters add to a linear: against double precision, for every instruction set that this machine has."""

from __future__ import annotations

import ctypes
import dataclasses
from itertools import pairwise

import pytest
import torch
from compiled import types
from torch import Tensor

from ramify.ops.cpu.library import load
from ramify.ops.cpu.lora import CompiledLora
from ramify.ops.cpu.record import CpuRecorder, Functions
from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.reference import lora
from tensors import close, randn


def made(ranks: list[int], outputs: int, inputs: int, dtype: torch.dtype, parts: int = 1) -> LowRanks:
    """A slot per rank, each over `parts` pieces of the outputs; slot 0 is empty."""
    table = LowRanks(len(ranks) + 1, parts, dtype)
    for slot, rank in enumerate(ranks, 1):
        edges = [outputs * part // parts for part in range(parts + 1)]
        table.put(
            slot,
            [
                LowRank(
                    randn(rank, inputs, dtype=dtype, seed=10 * slot + part),
                    randn(end - begin, rank, dtype=dtype, seed=100 * slot + part),
                    0.5 / slot,
                    begin,
                )
                for part, (begin, end) in enumerate(pairwise(edges))
            ],
        )
    return table


def exact(y: Tensor, x: Tensor, runs: list[tuple[int, int, int]], table: LowRanks) -> Tensor:
    out = y.double()
    for start, stop, slot in runs:
        for part in table[slot]:
            end = part.begin + len(part.up_ER)
            inner = x[start:stop].double() @ part.down_RD.double().T
            out[start:stop, part.begin : end] += part.scale * inner @ part.up_ER.double().T
    return out.to(y.dtype)


RUNS = [(0, 1, 1), (1, 4, 2), (6, 6, 3), (7, 12, 3), (12, 13, 1), (15, 40, 2), (40, 41, 0)]


@types
@pytest.mark.parametrize("parts", [1, 3])
def test_reference(parts: int, dtype: torch.dtype) -> None:
    table = made([4, 16, 9], 33, 70, dtype, parts)
    x, y = randn(45, 70, dtype=dtype), randn(45, 33, dtype=dtype, seed=1)
    expected = exact(y, x, RUNS, table)
    lora.lora(y, x, torch.tensor(RUNS, dtype=torch.int32), table)
    close(y, expected)


def test_a_slot_is_taken_again() -> None:
    table = made([4, 8], 16, 16, torch.float32)
    assert (len(table), table.room) == (3, 8)
    table.put(2, ())
    assert (table[2], table.room) == ((), 4)
    assert not table.places[2].any()


def test_launches_are_made_for_as_many_ranks_as_there_may_be() -> None:
    part = LowRank(randn(9, 16, dtype=torch.float32), randn(5, 9, dtype=torch.float32), 1.0)
    any_, few = LowRanks(2, 1, torch.float32), LowRanks(2, 1, torch.float32, room=8)
    any_.put(1, [part])
    assert (any_.room, few.room) == (9, 8)
    with pytest.raises(AssertionError):
        few.put(1, [part])


def test_kernels_can_read_sixteen_bytes_at_once() -> None:
    numbers = randn(1 + 4 * 10, dtype=torch.float32)
    table = LowRanks(1, 1, torch.float32)
    table.put(0, [LowRank(numbers[1:].view(4, 10), numbers[1:].view(10, 4), 1.0)])
    (part,) = table[0]
    assert (part.down_RD.data_ptr() | part.up_ER.data_ptr()) % 16 == 0
    assert torch.equal(part.down_RD.flatten(), numbers[1:])


# -- compiled ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(library: ctypes.CDLL) -> CompiledLora:
    return CompiledLora(library)  # type: ignore[arg-type]


compiled = pytest.mark.skipif(load() is None, reason="the kernels are not compiled in this installation")
SIZES = [(33, 70), (16, 8), (640, 96), (5, 1), (1100, 2051), (96, 1024)]


def added(kernel: CompiledLora, y: Tensor, x: Tensor, runs: list[tuple[int, int, int]], table: LowRanks) -> Tensor:
    out = y.clone()
    kernel.lora(out, x, torch.tensor(runs, dtype=torch.int32).view(-1, 3), table)
    return out


@compiled
@types
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_kernel(kernel: CompiledLora, outputs: int, inputs: int, parts: int, dtype: torch.dtype) -> None:
    """A row has the bits that it has alone, whatever runs beside it."""
    table = made([4, 16, 9], outputs, inputs, dtype, parts)
    x, y = randn(45, inputs, dtype=dtype), randn(45, outputs, dtype=dtype, seed=1)
    whole = added(kernel, y, x, RUNS, table)
    close(whole, exact(y, x, RUNS, table))
    rows = {row: slot for start, stop, slot in RUNS for row in range(start, stop)}
    for row in range(45):
        alone = added(kernel, y[row : row + 1], x[row : row + 1], [(0, 1, rows.get(row, 0))], table)
        assert torch.equal(alone[0], whole[row]), row
        assert (row in rows and rows[row] > 0) or torch.equal(whole[row], y[row])
    for count in (2, 3, 5, 8, 16, 17):
        for slot in (1, 2, 3):
            some = added(kernel, y[:count], x[:count], [(0, count, slot)], table)
            last = slice(count - 1, count)
            assert torch.equal(some[last], added(kernel, y[last], x[last], [(0, 1, slot)], table))


@compiled
@types
def test_kernel_over_strides(kernel: CompiledLora, dtype: torch.dtype) -> None:
    """Rows of x and y may be parts of wider ones, and x may be transposed."""
    table = made([4, 16], 40, 70, dtype)
    x, y = randn(9, 100, dtype=dtype)[:, 20:90], randn(9, 60, dtype=dtype, seed=1)
    runs = [(0, 4, 2), (5, 9, 1)]
    expected = added(kernel, y[:, 7:47].contiguous(), x.contiguous(), runs, table)
    wide = y.clone()
    kernel.lora(wide[:, 7:47], x, torch.tensor(runs, dtype=torch.int32), table)
    assert torch.equal(wide[:, 7:47], expected)
    assert torch.equal(wide[:, :7], y[:, :7])
    assert torch.equal(wide[:, 47:], y[:, 47:])
    assert torch.equal(added(kernel, y[:, 7:47].contiguous(), x.T.contiguous().T, runs, table), expected)


@compiled
@types
def test_kernel_of_many_rows(kernel: CompiledLora, dtype: torch.dtype) -> None:
    table = made([16, 8], 96, 128, dtype)
    x, y = randn(1000, 128, dtype=dtype), randn(1000, 96, dtype=dtype, seed=1)
    runs = [(0, 517, 1), (517, 519, 2), (519, 990, 1)]
    whole = added(kernel, y, x, runs, table)
    close(whole, exact(y, x, runs, table))
    for first, last in ((0, 100), (400, 517), (519, 700)):
        part = added(kernel, y[first:last], x[first:last], [(0, last - first, 1)], table)
        assert torch.equal(part, whole[first:last])


@compiled
@types
def test_kernel_of_nothing(kernel: CompiledLora, dtype: torch.dtype) -> None:
    table = made([4], 20, 10, dtype)
    x, y = randn(3, 10, dtype=dtype), randn(3, 20, dtype=dtype, seed=1)
    for runs in ([], [(0, 3, 0)], [(2, 2, 1)], [(0, 0, 0)] * 5):
        assert torch.equal(added(kernel, y, x, runs, table), y)
    table.put(1, ())
    assert torch.equal(added(kernel, y, x, [(0, 3, 1)], table), y)


@compiled
@types
def test_kernel_of_what_is_not_finite(kernel: CompiledLora, dtype: torch.dtype) -> None:
    """It shows in its own row, and of an adapter in the rows that have it."""
    table = made([4, 16], 40, 70, dtype)
    x, y = randn(9, 70, dtype=dtype), randn(9, 40, dtype=dtype, seed=1)
    runs = [(0, 4, 1), (4, 9, 2)]
    clean = added(kernel, y, x, runs, table)
    x[1, 69], x[5, 0], x[6, 3] = float("nan"), float("inf"), float("-inf")
    broken = added(kernel, y, x, runs, table)
    for row in range(9):
        if row in (1, 5, 6):
            assert not broken[row].isfinite().any()
        else:
            assert torch.equal(broken[row], clean[row])
    down = table[1][0].down_RD.clone()
    down[0, 5] = float("nan")
    table.put(1, [dataclasses.replace(table[1][0], down_RD=down)])
    assert added(kernel, y, x, runs, table)[:4].isnan().all()


@compiled
@types
def test_a_recorded_call_reads_runs_and_table_anew(dtype: torch.dtype) -> None:
    """Rows that have no adapter this time stand as empty runs."""
    library = load()
    assert library is not None
    functions = Functions(library)
    kernel, table = CompiledLora(functions), made([4, 16], 40, 70, dtype)
    x, runs = randn(3, 70, dtype=dtype), torch.tensor([[0, 1, 1], [1, 2, 2], [2, 3, 1]], dtype=torch.int32)
    base = randn(3, 40, dtype=dtype, seed=1)

    def compute() -> Tensor:
        y = torch.empty_like(base)
        y.copy_(base)
        kernel.lora(y, x, runs, table)
        return y

    _, again = CpuRecorder(functions).record(compute)
    assert torch.equal(again(), added(kernel, base, x, [(0, 1, 1), (1, 2, 2), (2, 3, 1)], table))
    runs.copy_(torch.tensor([[0, 2, 2], [0, 0, 0], [0, 0, 0]]))
    table.put(2, made([9], 40, 70, dtype)[1])
    x.copy_(randn(3, 70, dtype=dtype, seed=5))
    assert torch.equal(again(), added(kernel, base, x, [(0, 2, 2)], table))
