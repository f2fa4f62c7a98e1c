"""What adapters add to a linear, in Triton's interpreter: against double precision, with bits of a row's own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.triton.lora import Loras
from tensors import close, randn

pytestmark = pytest.mark.triton

LORAS = {"few runs": Loras(), "many runs": Loras(many=0)}
ways = pytest.mark.parametrize("way", LORAS)
TYPES = {"float32": torch.float32, "float16": torch.float16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
Runs = list[tuple[int, int, int]]
RUNS: Runs = [(0, 1, 1), (1, 4, 2), (6, 6, 3), (7, 12, 3), (12, 13, 1), (15, 40, 2), (40, 41, 0)]


def made(ranks: list[int], outputs: int, inputs: int, dtype: torch.dtype, parts: int = 1) -> LowRanks:
    """A slot per rank, each over `parts` pieces of the outputs; slot 0 is empty."""
    table = LowRanks(len(ranks) + 1, parts, dtype, room=max(ranks))
    for slot, rank in enumerate(ranks, 1):
        edges = [outputs * part // parts for part in range(parts + 1)]
        downs = [randn(rank, inputs, dtype=dtype, seed=10 * slot + part) for part in range(parts)]
        ups = [
            randn(end - begin, rank, dtype=dtype, seed=100 * slot + part)
            for part, (begin, end) in enumerate(pairwise(edges))
        ]
        table.put(slot, map(LowRank, downs, ups, [0.5 / slot] * parts, edges))
    return table


def exact(y: Tensor, x: Tensor, runs: Runs, table: LowRanks) -> Tensor:
    out = y.double()
    for start, stop, slot in runs:
        for part in table[slot]:
            inner = x[start:stop].double() @ part.down_RD.double().T
            end = part.begin + len(part.up_ER)
            out[start:stop, part.begin : end] += part.scale * inner @ part.up_ER.double().T
    return out.to(y.dtype)


def added(y: Tensor, x: Tensor, runs: Runs, table: LowRanks, way: str = "few runs") -> Tensor:
    out = y.clone()
    LORAS[way].lora(out, x, torch.tensor(runs, dtype=torch.int32).view(-1, 3), table)
    return out


@types
@ways
@pytest.mark.parametrize(("outputs", "inputs", "parts"), [(33, 70, 3), (70, 40, 1), (130, 2051, 2)])
def test_lora(ordered: None, outputs: int, inputs: int, parts: int, way: str, dtype: torch.dtype) -> None:
    """A row has the bits that it has alone, whatever runs beside it."""
    table = made([4, 16, 21], outputs, inputs, dtype, parts)
    x, y = randn(45, inputs, dtype=dtype), randn(45, outputs, dtype=dtype, seed=1)
    whole = added(y, x, RUNS, table, way)
    close(whole, exact(y, x, RUNS, table))
    slots = {row: slot for start, stop, slot in RUNS for row in range(start, stop)}
    for row in (0, 2, 5, 6, 9, 12, 13, 30, 40, 44):
        alone = added(y[row : row + 1], x[row : row + 1], [(0, 1, slots.get(row, 0))], table, way)
        assert torch.equal(alone[0], whole[row]), row
        assert slots.get(row, 0) or torch.equal(whole[row], y[row])


@ways
def test_many_rows_have_the_bits_of_few(ordered: None, way: str) -> None:
    """Slices are summed up by one program or by several."""
    dtype = torch.float32
    table = made([5], 20, 2100, dtype)
    x, y = randn(70, 2100, dtype=dtype), randn(70, 20, dtype=dtype, seed=1)
    runs: Runs = [(0, 30, 1), (30, 70, 1)]
    assert torch.equal(added(y, x, runs, table, way)[66:], added(y[66:], x[66:], [(0, 4, 1)], table, way))


def test_strides() -> None:
    """Rows of x and y may be parts of wider ones, and x may be transposed."""
    dtype = torch.float32
    table = made([4, 16], 40, 70, dtype)
    x, y = randn(9, 100, dtype=dtype)[:, 20:90], randn(9, 60, dtype=dtype, seed=1)
    runs: Runs = [(0, 4, 2), (5, 9, 1)]
    expected = added(y[:, 7:47].contiguous(), x.contiguous(), runs, table)
    wide = y.clone()
    LORAS["few runs"].lora(wide[:, 7:47], x, torch.tensor(runs, dtype=torch.int32), table)
    assert torch.equal(wide[:, 7:47], expected)
    assert torch.equal(wide[:, :7], y[:, :7])
    assert torch.equal(wide[:, 47:], y[:, 47:])
    assert torch.equal(added(y[:, 7:47].contiguous(), x.T.contiguous().T, runs, table), expected)


@ways
def test_nothing_to_add(way: str) -> None:
    table = made([4], 20, 10, torch.float32)
    x, y = randn(3, 10, dtype=torch.float32), randn(3, 20, dtype=torch.float32, seed=1)
    nothing: list[Runs] = [[], [(0, 3, 0)], [(2, 2, 1)], [(0, 0, 0)] * 5]
    for runs in nothing:
        assert torch.equal(added(y, x, runs, table, way), y)
    table.put(1, ())
    assert torch.equal(added(y, x, [(0, 3, 1)], table, way), y)


@ways
def test_a_number_that_is_not_finite_shows_in_its_own_row(way: str) -> None:
    table = made([4, 16], 40, 70, torch.float32)
    x, y = randn(9, 70, dtype=torch.float32), randn(9, 40, dtype=torch.float32, seed=1)
    runs: Runs = [(0, 4, 1), (4, 9, 2)]
    clean = added(y, x, runs, table, way)
    x[1, 69], x[5, 0] = float("nan"), float("inf")
    broken = added(y, x, runs, table, way)
    for row in range(9):
        assert not broken[row].isfinite().any() if row in (1, 5) else torch.equal(broken[row], clean[row])


@ways
def test_launches_do_not_depend_on_the_numbers(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A captured step is made again with other runs and other adapters, as many rows and no larger ones."""
    from ramify.ops.triton import experts, lora

    launches: list[tuple[object, ...]] = []

    class Noted:
        def __init__(self, kernel: object) -> None:
            self._kernel = kernel

        def __getitem__(self, grid: object) -> object:
            return lambda *args, **named: launches.append((self._kernel, grid, *map(_alike, args), named.items()))

    for room, name in ((lora, "slots_of"), (lora, "shrink"), (lora, "expand"), (experts, "count"), (experts, "place")):
        monkeypatch.setattr(room, name, Noted(name))
    x, y = randn(9, 70, dtype=torch.float32), randn(9, 40, dtype=torch.float32, seed=1)
    found = []
    for ranks, runs in (([16, 8], [(0, 4, 2), (4, 9, 1)]), ([2, 16], [(0, 9, 1), (0, 0, 0)])):
        added(y, x, runs, made(ranks, 40, 70, torch.float32), way)
        found.append(str(launches))
        launches.clear()
    assert found[0] == found[1]
    assert found[0].count("shrink") == 1


def _alike(value: object) -> object:
    """What a launch knows of a tensor."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value
