"""What tests of layers that keep a state share: rows cut in spans, and inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.ops.states import Spans
from tensors import randn


def spans(*rows: tuple[int, list[tuple[int, int]]]) -> Spans:
    """Of each row the slot it reads, and (tokens, slot) of its spans."""
    starts, ends, to, offsets, at = [], [], [], [0], 0
    for _, parts in rows:
        starts.append(at)
        for count, slot in parts:
            at += count
            ends.append(at)
            to.append(slot)
        offsets.append(len(ends))
    return Spans(*map(torch.tensor, (starts, [source for source, _ in rows], offsets, ends, to)))


MIXED = spans((0, [(5, 1), (7, 2)]), (6, [(1, 6)]), (3, [(1, 4)]), (0, [(9, 5)]))  # 23 tokens
TOKENS = 23


def pool(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = randn(9, *shape, dtype=dtype, seed=7)
    made[0] = 0
    return made


def of_ssd(size: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[tuple, Tensor]:
    heads, groups, value, key = size
    x = randn(TOKENS, heads * value + 2 * groups * key, dtype=dtype)
    step = randn(TOKENS, heads + 5, dtype=dtype, seed=1)[:, 3 : heads + 3]
    decay, bias, skip = (randn(heads, dtype=torch.float32, seed=n) for n in (2, 3, 4))
    return (x, step, -decay.exp(), bias, skip, (0.01, 2.0), groups), pool(heads, value, key)


def of_delta(size: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[tuple, Tensor]:
    heads, groups, value, key = size
    x = randn(TOKENS, heads * value + 2 * groups * key, dtype=dtype)
    a, b = randn(TOKENS, 2 * heads, dtype=dtype, seed=1).chunk(2, dim=1)
    decay, bias = (randn(heads, dtype=torch.float32, seed=n) for n in (2, 3))
    return (x, a, b, -decay.exp(), bias, groups), pool(heads, key, value)
