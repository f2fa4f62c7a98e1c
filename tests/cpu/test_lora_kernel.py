"""What adapters add to a linear: against double precision, for every instruction set that this machine has."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from compiled import close, randn, types
from torch import Tensor

from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.reference import lora


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
    assert (len(table), table.ranks) == (3, 8)
    table.put(2, ())
    assert (table[2], table.ranks) == ((), 4)
    assert not table.places[2].any()
