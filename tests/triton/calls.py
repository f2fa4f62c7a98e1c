"""Calls of every kernel as a model on a GPU makes them: for compiling, not for computing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule
from ramify.ops.triton.attention import TritonAttention

BF16, CPU = torch.bfloat16, torch.device("cpu")


PLAIN = Rule(0.1)


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def attention(
    counts: list[int],
    length: int,
    heads: int = 32,
    kv_heads: int = 8,
    size: int = 128,
    value: int | None = None,
    page: int = 16,
    stored: torch.dtype = BF16,
    rule: Rule = PLAIN,
) -> None:
    row = size if stored is not torch.int8 else size + 4
    k = empty(4, kv_heads, page, row, dtype=stored)
    v = empty(4, kv_heads, page, row, dtype=stored) if value is None else k[..., :value]
    shape = AttentionShape(heads, kv_heads, size, page, "bfloat16", "cuda", value)
    backend = TritonAttention(shape, CPU)
    starts = [sum(counts[:row]) for row in range(len(counts))]
    tables = torch.zeros(len(counts), -(-length // page), dtype=torch.int32)
    work = backend.prepare(Paged(starts, counts, [length] * len(counts), tables))
    backend.forward(empty(sum(counts), heads, size), k, v, work, rule)


SINKS = Rule(0.1, window=128, softcap=30.0, chunk=8192, sinks_H=torch.zeros(32))

CALLS: dict[str, Callable[[], object]] = {
    "attention of tokens": lambda: attention([1], 1000),
    "attention of prompts": lambda: attention([512], 1000),
    "attention by all rules": lambda: attention([1], 1000, rule=SINKS),
    "attention over int8": lambda: attention([1], 1000, stored=torch.int8),
    "attention over latents": lambda: attention([1], 1000, heads=128, kv_heads=1, size=576, value=512),
    "attention of wide heads": lambda: attention([64], 1000, size=256),
}
