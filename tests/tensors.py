"""What tests of kernels share: numbers, how close is close, and pages with requests in them."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from ramify.ops.attention import TREE, AttentionBackend, Paged, Rule
from ramify.ops.reference import fp8, int8
from ramify.ops.reference.attention import ReferenceAttention, attend, gather

BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
PLAIN = Rule(0.2)


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(ours: Tensor, reference: Tensor) -> None:
    """Within a few units in the last place of the largest number."""
    assert ours.dtype == reference.dtype
    assert ours.shape == reference.shape
    assert (ours.float() - reference.float()).abs().max() <= BOUNDS[ours.dtype] * reference.float().abs().max()


class World:
    """Rows of requests with random contents in pages in random order, and `unwritten` where nobody wrote."""

    def __init__(
        self,
        rows: list[tuple[int, int]],
        heads: int,
        kv_heads: int,
        size: int,
        page: int,
        dtype: torch.dtype,
        stored: torch.dtype | None = None,
        unwritten: float = float("nan"),
    ) -> None:
        rnd = random.Random(repr((rows, page)))
        needed = [-(-length // page) for _, length in rows]
        order = rnd.sample(range(1, sum(needed) + 3), sum(needed))
        self.k = torch.full((sum(needed) + 3, kv_heads, page, size), unwritten, dtype=dtype)
        self.v = self.k.clone()
        self.tables = torch.zeros(len(rows), max(needed), dtype=torch.int32)
        self.q = randn(sum(count for count, _ in rows), heads, size, dtype=dtype) * 2
        for row, (_, length) in enumerate(rows):
            pages = [order.pop() for _ in range(needed[row])]
            self.tables[row, : len(pages)] = torch.tensor(pages)
            for pool, seed in ((self.k, 2 * row + 1), (self.v, 2 * row + 2)):
                content = randn(length, kv_heads, size, dtype=dtype, seed=seed)
                for position in range(length):
                    pool[pages[position // page], :, position % page] = content[position]
        counts = [count for count, _ in rows]
        starts = [sum(counts[:row]) for row in range(len(rows))]
        if stored is torch.int8:
            self.k, self.v = int8.store(self.k), int8.store(self.v)
        elif stored is not None:
            self.k, self.v = (fp8.cast(pool) if stored is fp8.KIND else pool.to(stored) for pool in (self.k, self.v))
        self.paged = Paged(starts, counts, [length for _, length in rows], self.tables)

    def bounded(self, bounds: list[int]) -> None:
        """The host knows bounds of the lengths only; tables are as wide as these."""
        paged, pages = self.paged, -(-max(bounds) // self.k.shape[2])
        tables = torch.full((len(bounds), pages), 0, dtype=torch.int32)
        tables[:, : paged.tables.shape[1]] = paged.tables
        self.paged = Paged(paged.starts, paged.counts, bounds, tables, torch.tensor(paged.lengths))

    def random_trees(self, seed: int = 0) -> dict[int, list[int]]:
        """Rows of 2 to 64 queries become trees: the parents of their queries, by row; -1 is that of a root."""
        rnd = random.Random(seed)
        trees_T = torch.zeros(len(self.q), dtype=torch.int64)
        parents = {row: [] for row, count in enumerate(self.paged.counts) if 2 <= count <= TREE}
        for row, of_row in parents.items():
            start = self.paged.starts[row]
            for query in range(self.paged.counts[row]):
                of_row.append(rnd.randrange(-1, query))
                above = int(trees_T[start + of_row[-1]]) if of_row[-1] >= 0 else 0
                trees_T[start + query] = above | (1 << query if query < TREE - 1 else -(1 << query))
        self.paged = replace(self.paged, trees_T=trees_T)
        return parents

    def branches(self, parents: dict[int, list[int]], rule: Rule) -> Tensor:
        """What the reference gives to each draft over its branch alone, and to other rows as they are."""
        plain = replace(self.paged, trees_T=None)
        out = self.attend(ReferenceAttention(), rule, plain)
        for row, of_row in parents.items():
            start, before = self.paged.starts[row], self.paged.lengths[row] - len(of_row)
            k, v = (
                gather(pool, self.tables[row], self.paged.lengths[row], self.q.shape[2]) for pool in (self.k, self.v)
            )
            for query in range(len(of_row)):
                branch, at = [], query
                while at >= 0:
                    branch.insert(0, before + at)
                    at = of_row[at]
                keys = [*range(before), *branch]
                q = self.q[start + query][:, None]
                out[start + query] = attend(q, k[:, keys], v[:, keys], rule)[:, 0]
        return out

    def attend(self, backend: AttentionBackend, rule: Rule = PLAIN, paged: Paged | None = None) -> Tensor:
        return backend.forward(self.q, self.k, self.v, backend.prepare(paged or self.paged), rule)
