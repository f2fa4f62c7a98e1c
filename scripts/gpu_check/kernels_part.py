"""Every kernel against its reference, and its time against the floor that bytes and operations set.

References compute in float64 where they can. Each kernel runs on fresh random numbers, three times over: results that
differ between runs are a race.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from measure import Ceilings, ceilings, error, milliseconds
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule
from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.reference import basic, choose, encode, experts, fp8, int4, int8, lora, rope, sample
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.routing import Routing
from ramify.ops.triton.attention import TritonAttention
from ramify.ops.triton.kernels import triton_kernels
from ramify.ops.triton.quantized import Int8
from ramify.ops.triton.tiles import Tiles, tuned_tiles

BF16 = torch.bfloat16
BOUND = {BF16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
TILES = tuned_tiles(torch.cuda.get_device_name()) if torch.cuda.is_available() else Tiles()
KERNELS = triton_kernels(invariant=True, tiles=TILES)


@dataclass(frozen=True)
class Case:
    """`compute` is timed and compared with `expected`; `bytes` and `operations` are the least it takes."""

    name: str
    compute: Callable[[], Tensor]
    expected: Callable[[], Tensor]
    bytes: float
    operations: float = 0.0
    bound: float | None = None
    same: bool = False  # whole numbers, that have to be the reference's but for few


class World:
    """Random numbers on a device; sizes are divided where everything is to be tiny."""

    def __init__(self, device: torch.device, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.dtype = torch.float16 if tiny else BF16

    def size(self, full: int, small: int) -> int:
        return small if self.tiny else full

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=torch.float32).to(dtype or self.dtype)


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    from attention_rows import further

    most, world = ceilings(device), World(device, tiny)
    rows: list[dict[str, object]] = [
        {"kernel": "(ceilings)", "GB/s": most.bytes / 1e9, "TFLOP/s": most.operations / 1e12, "right": True}
    ]
    mixed = (grouped, grouped_bits, choosing, adapted, texts)
    for make in (attention, linears, quantized, *mixed, rows_cases, drawing, further):
        for case in make(world):
            rows.append(judged(case, most, device))
            print(rows[-1], flush=True)
    return rows


def judged(case: Case, most: Ceilings, device: torch.device) -> dict[str, object]:
    first = case.compute()
    expected = case.expected()
    again = all(torch.equal(first, case.compute()) for _ in range(2 if device.type != "cpu" else 0))
    if case.same:
        off = float((first != expected).double().mean())
        right = off <= 0.02
    else:
        off = error(first, expected)
        right = off <= (case.bound or BOUND[first.dtype])
    took = milliseconds(case.compute, device)
    floor = max(case.bytes / most.bytes, case.operations / most.operations) * 1e3
    return {
        "kernel": case.name,
        "error": off,
        "right": right and again,
        "repeats": again,
        "ms": took,
        "floor ms": floor,
        "of floor": floor / took,
        "GB/s": case.bytes / took / 1e6,
        "TFLOP/s": case.operations / took / 1e9,
    }


# -- attention ---------------------------------------------------------------------------------------------------------


def attention(world: World) -> Iterator[Case]:
    long, users = world.size(8192, 64), world.size(64, 2)
    shapes = {"8B": (32, 8, 128, None), "gemma": (8, 4, 256, None), "latent": (16, 1, 576, 512)}
    for name, (heads, kv_heads, size, value) in shapes.items():
        if world.tiny and size > 128:
            continue
        for told, counts, lengths in (
            ("1 user", [1], [long]),
            ("users", [1] * users, [long // 8] * users),
            ("prompt", [long // 4], [long // 4]),
            ("mixed", [long // 8] + [1] * users, [long // 4] + [long // 8] * users),
        ):
            yield attended(
                world, f"attention {name} {told}", counts, lengths, (heads, kv_heads, size, value), Rule(0.1)
            )
    rule = Rule(0.1, window=128, softcap=30.0, sinks_H=world.randn(32, dtype=torch.float32))
    yield attended(world, "attention by rules", [1, 5, long // 8], [long, 77, long // 4], (32, 8, 128, None), rule)
    yield attended(
        world, "attention over int8", [1] * users, [long // 8] * users, (32, 8, 128, None), Rule(0.1), int8_=True
    )


def attended(
    world: World,
    name: str,
    counts: list[int],
    lengths: list[int],
    shape: tuple[int, int, int, int | None],
    rule: Rule,
    page: int = 16,
    int8_: bool = False,
) -> Case:
    heads, kv_heads, size, value = shape
    pages = [-(-length // page) for length in lengths]
    order = torch.randperm(sum(pages), device=world.device).int() + 1
    tables = torch.zeros(len(counts), max(pages), dtype=torch.int32, device=world.device)
    for row, some in enumerate(order.split(pages)):
        tables[row, : len(some)] = some
    k = world.randn(sum(pages) + 1, kv_heads, page, size)
    v = world.randn(*k.shape) if value is None else k[..., :value]
    if int8_:
        k, v = int8.store(k), int8.store(v)
    q = world.randn(sum(counts), heads, size) * 2
    starts = [sum(counts[:row]) for row in range(len(counts))]
    paged = Paged(starts, counts, lengths, tables)
    dtype = str(world.dtype).removeprefix("torch.")
    backend = TritonAttention(AttentionShape(heads, kv_heads, size, page, dtype, "cuda", value), world.device)
    meta, reference = backend.prepare(paged), ReferenceAttention()
    seen = sum(
        min(length - count + query + 1, rule.window or length)
        for count, length in zip(counts, lengths, strict=True)
        for query in range(count)
    )
    read = sum(min(length, (rule.window or length) + count) for count, length in zip(counts, lengths, strict=True))
    stored = (size + (value or size if value is None else 0)) * k.element_size()
    return Case(
        name,
        lambda: backend.forward(q, k, v, meta, rule),
        lambda: reference.forward(q, k, v, paged, rule),
        read * kv_heads * stored + 2 * q.nbytes,
        2.0 * seen * heads * (size + (value or size)),
    )


# -- linears -----------------------------------------------------------------------------------------------------------


def linears(world: World) -> Iterator[Case]:
    """Of Llama 3.1 8B: as many tokens as decode and as fill the chip; ours, and cuBLAS beside it."""
    shapes = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096))
    for outputs, inputs in ((96, 2200),) if world.tiny else shapes:
        weight = world.randn(outputs, inputs)
        for tokens in (1, 16, 64, world.size(256, 70), world.size(4096, 80)):
            x = world.randn(tokens, inputs)
            moved, operations = weight.nbytes + x.nbytes + 2 * tokens * outputs, 2.0 * tokens * outputs * inputs
            for name, linear in (("invariant", KERNELS.linear), ("cuBLAS", basic.linear)):
                yield Case(
                    f"linear {name} {tokens}x{outputs}x{inputs}",
                    lambda linear=linear, x=x, weight=weight: linear(x, weight, None),
                    lambda x=x, weight=weight: (x.double() @ weight.double().T).to(x.dtype),
                    moved,
                    operations,
                )


def quantized(world: World) -> Iterator[Case]:
    outputs, inputs = world.size(28672, 96), world.size(4096, 200)
    weight = world.randn(outputs, inputs)
    bits, eight = KERNELS.int4, Int8(TILES)
    kept, halves = int8.store(weight), int4.store(weight)
    packed = {"int8": eight.pack(weight), "int4": bits.pack(weight), "fp8": fp8.store(weight)}
    for tokens in (1, world.size(64, 9), world.size(4096, 70)):
        x = world.randn(tokens, inputs)
        operations = 2.0 * tokens * outputs * inputs
        made = {
            "int8": (
                lambda x: eight.linear(x, packed["int8"], outputs, None),
                lambda x: exactly(int8_rows(kept, inputs), x),
            ),
            "int4": (
                lambda x: bits.linear(x, packed["int4"], outputs, None),
                lambda x: exactly(int4_rows(halves, x), x),
            ),
            "fp8": (
                lambda x: KERNELS.fp8.linear(x, packed["fp8"], outputs, None),
                lambda x: exactly(fp8_rows(packed["fp8"], outputs), x),
            ),
        }
        if world.tiny:
            del made["fp8"]  # the interpreter rounds to e4m3 without carrying over
        for name, (ours, theirs) in made.items():
            yield Case(
                f"linear {name} {tokens}x{outputs}x{inputs}",
                lambda ours=ours, x=x: ours(x),
                lambda theirs=theirs, x=x: theirs(x),
                packed[name].nbytes + x.nbytes + 2 * tokens * outputs,
                operations,
                bound=0.05 if name == "fp8" else 2e-2,  # inputs are rounded too
            )


def exactly(weight_ED: Tensor, x: Tensor) -> Tensor:
    return (x.double() @ weight_ED[:, : x.shape[1]].double().T).to(x.dtype)


def int8_rows(stored: Tensor, inputs: int) -> Tensor:
    return int8.numbers(stored, inputs)


def int4_rows(stored: Tensor, x: Tensor) -> Tensor:
    whole_EGK, scale_EG = int4.taken_apart(stored)
    return (whole_EGK * scale_EG[..., None]).flatten(1).to(x.dtype)


def fp8_rows(packed: Tensor, outputs: int) -> Tensor:
    number, scale = fp8.taken_apart(packed, outputs)
    return number.float() * scale[:, None]


def grouped(world: World) -> Iterator[Case]:
    """Of Qwen3-30B-A3B: 128 experts, 8 for each token."""
    groups, outputs, inputs, chosen = world.size(128, 6), world.size(1536, 40), world.size(2048, 48), world.size(8, 2)
    weight = world.randn(groups, outputs, inputs)
    for tokens in (1, world.size(64, 5), world.size(4096, 30)):
        rows = tokens * chosen
        counts = torch.bincount(torch.randint(groups, (rows,)), minlength=groups)
        ends, x = counts.cumsum(0).to(world.device), world.randn(rows, inputs)
        yield Case(
            f"experts of {tokens} tokens",
            lambda x=x, ends=ends: KERNELS.grouped_linear(x, weight, None, ends),
            lambda x=x, ends=ends: experts.grouped_linear(x, weight, None, ends),
            int((counts > 0).sum()) * weight[0].nbytes + x.nbytes + 2 * rows * outputs,
            2.0 * rows * outputs * inputs,
        )
        y, order = world.randn(rows, inputs), torch.randperm(rows, device=world.device).view(tokens, chosen)
        weights = world.randn(tokens, chosen, dtype=torch.float32).softmax(-1)
        yield Case(
            f"combine {tokens} tokens",
            lambda y=y, order=order, weights=weights: KERNELS.combine(y, order, weights),
            lambda y=y, order=order, weights=weights: experts.combine(y, order, weights),
            y.nbytes + 2 * tokens * inputs,
        )


def grouped_bits(world: World) -> Iterator[Case]:
    """The same experts in few bits."""
    groups, outputs, inputs, chosen = world.size(128, 4), world.size(1536, 40), world.size(2048, 48), world.size(8, 2)
    weight = world.randn(groups, outputs, inputs)
    packings = {"int8": KERNELS.w8a8, "int4": KERNELS.int4, "fp8": KERNELS.fp8}
    if world.tiny:
        del packings["fp8"]
    for name, packing in packings.items():
        assert packing.pack_groups is not None
        packed = packing.pack_groups(weight)
        for tokens in (1, world.size(64, 5), world.size(4096, 30)):
            rows = tokens * chosen
            counts = torch.bincount(torch.randint(groups, (rows,)), minlength=groups)
            ends, x = counts.cumsum(0).to(world.device), world.randn(rows, inputs)
            yield Case(
                f"experts {name} of {tokens} tokens",
                lambda x=x, ends=ends, of=packing.grouped_linear, w=packed: of(x, w, outputs, None, ends),
                lambda x=x, ends=ends: experts.grouped_linear(x, weight, None, ends),
                int((counts > 0).sum()) * packed.nbytes / groups + x.nbytes + 2 * rows * outputs,
                2.0 * rows * outputs * inputs,
                bound=0.2 if name == "int4" else 0.05,  # against the weights before they were rounded
            )


def choosing(world: World) -> Iterator[Case]:
    """Of Qwen3-30B-A3B, and of DeepSeek V3."""
    corrected = Routing(8, score="sigmoid", after="sum", groups=8, best_groups=4, pooled=2, scale=2.5)
    for tokens in (1, world.size(64, 5), world.size(8192, 30)):
        for name, count, routing in (("Qwen3", 128, Routing(8, after="sum")), ("DeepSeek V3", 256, corrected)):
            logits = world.randn(tokens, count, dtype=torch.float32)
            correction = None if routing.score == "softmax" else world.randn(count, dtype=torch.float32)
            yield Case(
                f"experts chosen {name} {tokens}",
                lambda logits=logits, correction=correction, routing=routing: torch.cat(
                    KERNELS.route(logits, correction, routing)
                ),
                lambda logits=logits, correction=correction, routing=routing: torch.cat(
                    experts.route(logits, correction, routing)
                ),
                logits.nbytes + 12.0 * tokens * routing.chosen,
            )
        numbers = torch.rand(tokens, 128, device=world.device).topk(8).indices
        yield Case(
            f"rows by expert {tokens}",
            lambda numbers=numbers: torch.cat([each.flatten() for each in KERNELS.by_expert(numbers, 128)]),
            lambda numbers=numbers: torch.cat([each.flatten() for each in experts.by_expert(numbers, 128)]),
            3.0 * numbers.nbytes,
            same=True,
        )


def adapted(world: World) -> Iterator[Case]:
    """Queries, keys and values of an 8B under adapters of rank 16: as many as there are rows, up to eight."""
    inputs, edges = world.size(4096, 96), world.size(1024, 32) * torch.tensor([0, 4, 5, 6])
    table = LowRanks(9, 3, world.dtype, room=16, device=world.device)
    for slot in range(1, 9):
        parts = [
            LowRank(world.randn(16, inputs) / 64, world.randn(int(end - begin), 16), 0.5, int(begin))
            for begin, end in pairwise(edges)
        ]
        table.put(slot, parts)
    for tokens in (1, world.size(64, 9), world.size(4096, 70)):
        x, y = world.randn(tokens, inputs), world.randn(tokens, int(edges[-1]))
        many = min(tokens, 8)
        cuts = [tokens * each // many for each in range(many + 1)]
        runs = [(start, stop, slot) for slot, (start, stop) in enumerate(pairwise(cuts), 1)]
        runs_N3 = torch.tensor(runs, dtype=torch.int32, device=world.device)
        weights = many * 16 * (3 * inputs + int(edges[-1]))
        yield Case(
            f"adapters {many} of {tokens} tokens",
            lambda x=x, y=y, runs=runs_N3: _added(KERNELS.lora, y, x, runs, table),
            lambda x=x, y=y, runs=runs_N3: _added(lora.lora, y, x, runs, table),
            2.0 * weights + x.nbytes + 3.0 * y.nbytes,
            2.0 * tokens * 16 * (3 * inputs + int(edges[-1])),
        )


def _added(kernel: Callable[..., None], y: Tensor, x: Tensor, runs: Tensor, table: LowRanks) -> Tensor:
    """With a copy, whose time is in it."""
    out = y.clone()
    kernel(out, x, runs, table)
    return out


def texts(world: World) -> Iterator[Case]:
    heads, size = 12, 64
    for told, counts, window in (
        ("short", [world.size(128, 9)] * world.size(64, 4), 0),
        ("long", [world.size(8192, 90)], 0),
        ("long with a window", [world.size(8192, 90)], 64),
    ):
        qkv = world.randn(sum(counts), 3 * heads * size)
        counts_N = torch.tensor(counts, dtype=torch.int32, device=world.device)
        given = (heads, counts_N.cumsum(0).int() - counts_N, counts_N, window, 0.125)
        yield Case(
            f"texts {told}",
            lambda qkv=qkv, given=given: KERNELS.attend_texts(qkv, *given),
            lambda qkv=qkv, given=given: encode.attend_texts(qkv, *given),
            4.0 / 3.0 * qkv.nbytes,
            4.0 * heads * size * sum(count * min(count, 2 * window + 1 if window else count) for count in counts),
        )


# -- the rest ----------------------------------------------------------------------------------------------------------


def rows_cases(world: World) -> Iterator[Case]:
    hidden, mlp = world.size(4096, 96), world.size(14336, 200)
    weight = world.randn(hidden)
    for tokens in (1, world.size(256, 3), world.size(8192, 9)):
        x, residual, wide = world.randn(tokens, hidden), world.randn(tokens, hidden), world.randn(tokens, 2 * mlp)
        yield Case(
            f"add and norm {tokens}",
            lambda x=x, residual=residual: KERNELS.add_rms_norm(x, residual, weight, 1e-6)[0],
            lambda x=x, residual=residual: basic.add_rms_norm(x, residual, weight, 1e-6)[0],
            4.0 * x.nbytes,
        )
        yield Case(
            f"silu times {tokens}",
            lambda wide=wide: KERNELS.gated(wide, "silu"),
            lambda wide=wide: basic.gated(wide, "silu"),
            1.5 * wide.nbytes,
        )
        yield rotated(world, tokens)


def rotated(world: World, tokens: int) -> Case:
    heads, kv_heads, size, page = world.size(32, 4), world.size(8, 2), 128, 16
    qkv, angles = world.randn(tokens, (heads + 2 * kv_heads) * size), world.randn(tokens, size // 2)
    cos, sin = angles.cos(), angles.sin()
    pages = -(-tokens // page) + 1
    write_at = torch.randperm(pages * page, device=world.device)[:tokens]
    ours, theirs = (
        [torch.zeros(pages, kv_heads, page, size, dtype=world.dtype, device=world.device) for _ in range(2)]
        for _ in range(2)
    )

    def by(kernel: Callable[..., Tensor], pools: list[Tensor]) -> Tensor:
        q = kernel(qkv, heads, None, None, 1e-6, cos, sin, *pools, write_at)
        return torch.cat((q.flatten(), pools[0].flatten(), pools[1].flatten()))

    return Case(
        f"rotate and store {tokens}",
        lambda: by(KERNELS.qkv_rope_store, ours),
        lambda: by(rope.qkv_rope_store, theirs),
        2.0 * qkv.nbytes,
    )


def drawing(world: World) -> Iterator[Case]:
    vocab = world.size(151936, 600)
    for users in (1, world.size(64, 2), world.size(256, 3)):
        logits = world.randn(users, vocab, dtype=torch.float32) * 3
        random = torch.rand(users, device=world.device, dtype=torch.float64)
        for told, top_k, top_p in (("open", 1 << 30, 1.0), ("top-k", 40, 1.0), ("top-p", 1 << 30, 0.9)):
            columns = (
                torch.full((users,), 0.8, device=world.device),
                torch.full((users,), top_k, device=world.device),
                torch.full((users,), top_p, device=world.device),
                torch.zeros(users, device=world.device),
                random,
                torch.zeros(users, dtype=torch.bool, device=world.device),
            )
            yield Case(
                f"sample {told} {users}",
                lambda logits=logits, columns=columns: KERNELS.sample(logits, *columns)[0],
                lambda logits=logits, columns=columns: sample.sample(logits, *columns)[0],
                logits.nbytes,
                same=True,
            )
        tokens = torch.randint(vocab, (users,), device=world.device)
        yield Case(
            f"log probabilities {users}",
            lambda logits=logits, tokens=tokens: KERNELS.log_probabilities(logits, tokens),
            lambda logits=logits, tokens=tokens: choose.log_probabilities(logits, tokens),
            logits.nbytes,
        )
