"""What else attention does, for the part `kernels`: trees of drafts, pages in e4m3, latents over pages of any size,
steps planned from bounds of lengths, and the libraries that are installed beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from kernels_part import KERNELS, Case, World
from torch import Tensor

from ramify.core.errors import StartupError
from ramify.ops.attention import AttentionBackend, AttentionShape, Paged, Rule
from ramify.ops.cuda.flash import FlashAttention3
from ramify.ops.cuda.flashinfer import FlashInferAttention
from ramify.ops.reference import fp8, rope
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.triton.attention import TritonAttention

PLAIN = Rule(0.1)
OTHERS: dict[str, Callable[[AttentionShape, torch.device], AttentionBackend]] = {
    "flashinfer": FlashInferAttention,
    "fa3": FlashAttention3,
}


@dataclass(frozen=True)
class Step:
    """Random queries, pages and a table of them."""

    shape: AttentionShape
    q: Tensor
    k: Tensor
    v: Tensor
    paged: Paged

    def case(self, name: str, backend: AttentionBackend, rule: Rule = PLAIN) -> Case:
        meta, reference = backend.prepare(self.paged), ReferenceAttention()
        expected = reference.prepare(self.paged)
        stored = self.k.stride(1) // self.shape.page_size * self.k.element_size()
        read = sum(self.paged.lengths) * self.shape.kv_heads * stored * (1 if self.shape.value_dim else 2)
        counts = zip(self.paged.counts, self.paged.lengths, strict=True)
        seen = sum(count * length - count * (count - 1) // 2 for count, length in counts)
        wide = self.shape.head_dim + (self.shape.value_dim or self.shape.head_dim)
        return Case(
            name,
            lambda: backend.forward(self.q, self.k, self.v, meta, rule),
            lambda: reference.forward(self.q, self.k, self.v, expected, rule),
            read + 2 * self.q.nbytes,
            2.0 * seen * self.shape.heads * wide,
        )

    def ours(self, device: torch.device) -> TritonAttention:
        return TritonAttention(self.shape, device)


def step(
    world: World,
    counts: list[int],
    length: int,
    heads: tuple[int, int, int] | None = None,
    value: int | None = None,
    page: int = 16,
    stored: torch.dtype | None = None,
) -> Step:
    """Rows of so many queries and keys; `heads` are those of queries, of keys, and their size (Llama 3.1 8B's)."""
    count, kv_heads, size = heads or ((4, 2, 64) if world.tiny else (32, 8, 128))
    pages = -(-length // page)
    order = torch.randperm(len(counts) * pages, device=world.device).int() + 1
    k = world.randn(len(order) + 1, kv_heads, page, size)
    v = world.randn(*k.shape) if value is None else k
    if stored is not None:
        k, v = fp8.cast(k), fp8.cast(v)
    v = v if value is None else k[..., :value]
    dtype = str(world.dtype).removeprefix("torch.")
    starts = [sum(counts[:row]) for row in range(len(counts))]
    return Step(
        AttentionShape(count, kv_heads, size, page, dtype, str(world.device), value),
        world.randn(sum(counts), count, size) * 2,
        k,
        v,
        Paged(starts, counts, [length] * len(counts), order.view(len(counts), pages)),
    )


def further(world: World) -> Iterator[Case]:
    yield from trees(world)
    yield from eight_bits(world)
    yield from latents(world)
    yield from bounded(world)
    yield from libraries(world)


def trees(world: World) -> Iterator[Case]:
    """Drafts of many users as trees, and beside them the same step without: each query's branch is what stands before
    it in its row, in binary.
    """
    users, drafts, length = world.size(64, 2), world.size(16, 5), world.size(1024, 70)
    plain = step(world, [drafts] * users, length)
    yield plain.case("attention of drafts in a row", plain.ours(world.device))
    branches = [1]
    for draft in range(1, drafts):
        branches.append(branches[(draft - 1) // 2] | 1 << draft)
    trees_T = torch.tensor(branches * users, device=world.device)
    tree = replace(plain, paged=replace(plain.paged, trees_T=trees_T))
    yield tree.case("attention of drafts in trees", tree.ours(world.device))
    yield tree.case("attention of trees in a window", tree.ours(world.device), Rule(0.1, window=world.size(512, 33)))


def eight_bits(world: World) -> Iterator[Case]:
    users, length = world.size(64, 2), world.size(1024, 70)
    for name, counts in (("1 user", [1]), ("users", [1] * users), ("prompt", [length])):
        made = step(world, counts, length, stored=fp8.KIND)
        yield made.case(f"attention over e4m3 {name}", made.ours(world.device))
    yield stored_in_eight_bits(world)


def stored_in_eight_bits(world: World) -> Case:
    """Large numbers among them, and what is not finite."""
    tokens, heads, size = world.size(4096, 9), 8, 128
    x = world.randn(tokens, heads, size) * 100
    x[0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    pages = -(-tokens // 16)
    ours, expected = (torch.zeros(pages, heads, 16, size, dtype=fp8.KIND, device=world.device) for _ in range(2))
    at = torch.arange(tokens, device=world.device)

    def stored(pool: Tensor, store: Callable[[Tensor, Tensor, Tensor], None]) -> Tensor:
        store(x, pool, at)
        return pool.view(torch.uint8)

    return Case(
        "keys stored in e4m3",
        lambda: stored(ours, KERNELS.store),
        lambda: stored(expected, rope.store),
        x.nbytes + ours.nbytes,
        same=True,
    )


def latents(world: World) -> Iterator[Case]:
    """Decode steps of DeepSeek: all heads share a key of 576 elements, of which 512 are the value."""
    heads, value = ((16, 1, 48), 32) if world.tiny else ((128, 1, 576), 512)
    for page in (1, 64):
        for users, length in ((1, world.size(8192, 300)), (world.size(64, 2), world.size(1024, 70))):
            made = step(world, [1] * users, length, heads, value, page)
            yield made.case(f"attention over latents {users} pages of {page}", made.ours(world.device))


def bounded(world: World) -> Iterator[Case]:
    """A step ahead of what is known: planned from bounds, computed from lengths on the device."""
    users, length = world.size(64, 2), world.size(1024, 70)
    exact = step(world, [1] * users, length)
    bounds = [length + 1 + row % 5 for row in range(users)]
    tables = torch.nn.functional.pad(exact.paged.tables, (0, 1))
    lengths_N = torch.tensor(exact.paged.lengths, device=world.device)
    ahead = replace(exact, paged=replace(exact.paged, lengths=bounds, tables=tables, lengths_N=lengths_N))
    yield ahead.case("attention planned from bounds", ahead.ours(world.device))


def libraries(world: World) -> Iterator[Case]:
    """Where they are installed and can; ours are beside them."""
    users, length = world.size(64, 2), world.size(1024, 70)
    for told, counts in (("1 user", [1]), ("users", [1] * users), ("prompt", [length])):
        made = step(world, counts, length)
        for name, make in OTHERS.items():
            try:
                backend = make(made.shape, world.device)
            except StartupError as e:
                print(e, flush=True)
                continue
            if reasons := backend.reasons_against(made.shape):
                print(name, *reasons, flush=True)
                continue
            for rule in (PLAIN, Rule(0.1, window=length // 4)):
                told_rule = "" if rule is PLAIN else " in a window"
                yield made.case(f"{name} {told}{told_rule}", backend, rule)
                yield made.case(f"ours beside {name} {told}{told_rule}", made.ours(world.device), rule)
