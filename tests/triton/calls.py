"""Calls of every kernel as a model on a GPU makes them: for compiling, not for computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ramify.ops.attention import AttentionShape, Paged, Rule
from ramify.ops.kernels import Packing
from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.reference import fp8
from ramify.ops.routing import Routing
from ramify.ops.states import Spans
from ramify.ops.triton import pages
from ramify.ops.triton.attention import TritonAttention
from ramify.ops.triton.kernels import triton_kernels
from ramify.ops.triton.quantized import Int8

BF16, CPU = torch.bfloat16, torch.device("cpu")
PLAIN = Rule(0.1)
RULES = Rule(0.1, window=128, softcap=30.0, chunk=8192, sinks_H=torch.zeros(32))
KERNELS = triton_kernels(invariant=True)
NEEDS_FP8 = 89  # the compute capability from which there are numbers of eight bits


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
    tree: bool = False,
) -> None:
    row = size if stored is not torch.int8 else size + 4
    k = empty(4, kv_heads, page, row, dtype=stored)
    v = empty(4, kv_heads, page, row, dtype=stored) if value is None else k[..., :value]
    shape = AttentionShape(heads, kv_heads, size, page, "bfloat16", "cuda", value)
    backend = TritonAttention(shape, CPU)
    starts = [sum(counts[:row]) for row in range(len(counts))]
    tables = torch.zeros(len(counts), -(-length // page), dtype=torch.int32)
    trees_T = torch.ones(sum(counts), dtype=torch.int64) if tree else None
    work = backend.prepare(Paged(starts, counts, [length] * len(counts), tables, trees_T=trees_T))
    backend.forward(empty(sum(counts), heads, size), k, v, work, rule)


@contextmanager
def converting() -> Iterator[None]:
    """As on a GPU that has instructions for e4m3."""
    converts, pages.converts = pages.converts, lambda device: True
    yield
    pages.converts = converts


def in_e4m3(call: Callable[[], object]) -> None:
    with converting():
        call()


def qkv(stored: torch.dtype = BF16, interleaved: bool = False, normed: bool = True) -> None:
    pools = [empty(4, 8, 16, 132 if stored is torch.int8 else 128, dtype=stored) for _ in range(2)]
    angles, norm = empty(3, 64), empty(128) if normed else None
    write_at = torch.zeros(3, dtype=torch.int64)
    KERNELS.qkv_rope_store(
        empty(3, 48 * 128), 32, norm, norm, 1e-6, angles, angles, *pools, write_at, interleaved, float(interleaved)
    )


def grouped(rows: int) -> None:
    ends = torch.zeros(128, dtype=torch.int64)
    KERNELS.grouped_linear(empty(rows, 2048), empty(1, 1, 1).expand(128, 1536, 2048), None, ends)


def routing() -> None:
    KERNELS.route(torch.zeros(3, 128), None, Routing(8, after="sum"))
    KERNELS.route(torch.zeros(3, 32), None, Routing(4, score="logit", after="softmax"))
    many = Routing(8, score="sigmoid", after="sum", groups=8, best_groups=4, pooled=2, scale=2.5)
    KERNELS.route(torch.zeros(3, 256), torch.zeros(256), many)
    KERNELS.by_expert(torch.zeros(64, 8, dtype=torch.int64), 128)


def grouped_bits(packing: Packing, tokens: int) -> None:
    assert packing.pack_groups is not None
    assert packing.grouped_linear is not None
    packed = packing.pack_groups(empty(4, 256, 2048))
    packing.grouped_linear(empty(tokens, 2048), packed, 256, None, torch.zeros(4, dtype=torch.int64))


def adapted(tokens: int, runs: int) -> None:
    table = LowRanks(8, 3, BF16, room=64)
    table.put(1, [LowRank(empty(16, 4096), empty(4096, 16), 1.0, begin=begin) for begin in (0, 4096, 5120)])
    KERNELS.lora(empty(tokens, 6144), empty(tokens, 4096), torch.zeros(runs, 3, dtype=torch.int32), table)


def texts(window: int) -> None:
    ends = torch.full((8,), 512, dtype=torch.int32)
    KERNELS.attend_texts(empty(4096, 3 * 768), 12, ends, ends, window, 0.1)


def sampling() -> None:
    columns = [torch.ones(2), torch.ones(2, dtype=torch.int64), torch.ones(2), torch.ones(2), torch.ones(2).double()]
    KERNELS.sample(torch.zeros(2, 151936), *columns, torch.zeros(2, dtype=torch.bool))
    KERNELS.best(torch.zeros(2, 151936))


def choosing() -> None:
    logits, rows = torch.zeros(2, 151936), torch.zeros(2, dtype=torch.int64)
    KERNELS.uniform(rows, rows, rows, 0)
    KERNELS.log_probabilities(logits, rows)
    KERNELS.forbid(logits, rows, torch.zeros(2, 4748, dtype=torch.int32))
    tokens, numbers = torch.zeros(3, 40, dtype=torch.int64), torch.zeros(2)
    KERNELS.penalise(logits, rows, tokens, rows, rows, rows + 9, numbers, numbers, numbers, 9)


def rows() -> None:
    x, weight = empty(2, 4096), empty(4096)
    KERNELS.embed(torch.zeros(2, dtype=torch.int64), x)
    KERNELS.rms_norm(x, weight, 1e-6, 1.0)
    KERNELS.add_rms_norm(x, x, weight, 1e-6)
    KERNELS.add_layer_norm(x, x, weight, weight, 1e-6)
    KERNELS.softcap(torch.zeros(2, 4096), 30.0)
    KERNELS.combine(x, torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 8))


def activations() -> None:
    for name in ("silu", "gelu_tanh", "gelu", "clamped_swiglu"):
        KERNELS.gated(empty(2, 4096), name)
    KERNELS.activate(empty(2, 4096), "relu")


def rotations() -> None:
    x, angles, write_at = empty(3, 4, 64), empty(3, 32), torch.zeros(3, dtype=torch.int64)
    KERNELS.rotate(x, angles, angles, True)
    KERNELS.store(x, empty(4, 4, 16, 64), write_at)


def linear_int8(tokens: int) -> None:
    made = Int8()
    packed = made.pack(empty(256, 4096))
    made.linear(empty(tokens, 4096), packed, 256, None)
    made.embed(torch.zeros(2, dtype=torch.int64), packed, 4096)


def states() -> None:
    numbers = [torch.zeros(count, dtype=torch.int64) for count in (3, 3, 4, 3, 3)]
    spans, heads = Spans(*numbers), torch.zeros(32)
    KERNELS.conv(empty(9, 8192), empty(4, 8192), empty(8192), empty(4, 3, 8192), spans)
    pool = torch.zeros(4, 32, 128, 128)
    x, step = empty(9, 32 * 128 + 2 * 16 * 128), empty(9, 32)
    KERNELS.ssd(x, step, heads, heads, heads, (0.0, 9.0), 16, pool, spans)
    KERNELS.delta(x, step, step, heads, heads, 16, pool, spans)


CALLS: dict[str, Callable[[], object]] = {
    "attention of tokens": lambda: attention([1], 1000),
    "attention of prompts": lambda: attention([512], 1000),
    "attention by all rules": lambda: attention([1], 1000, rule=RULES),
    "attention over int8": lambda: attention([1], 1000, stored=torch.int8),
    "attention over fp8": lambda: in_e4m3(lambda: attention([1], 1000, stored=fp8.KIND)),
    "attention of prompts over fp8": lambda: in_e4m3(lambda: attention([512], 1000, stored=fp8.KIND)),
    "attention over bytes of e4m3": lambda: attention([1], 1000, stored=fp8.KIND),
    "attention of trees": lambda: attention([16], 1000, tree=True),
    "attention of trees by all rules": lambda: attention([16], 1000, rule=RULES, tree=True),
    "attention over latents": lambda: attention([1], 1000, heads=128, kv_heads=1, size=576, value=512),
    "attention of wide heads": lambda: attention([64], 1000, size=256),
    "rows": rows,
    "activations": activations,
    "queries, keys and values": qkv,
    "queries, keys, values in int8": lambda: qkv(torch.int8, interleaved=True),
    "queries, keys, values in fp8": lambda: in_e4m3(lambda: qkv(fp8.KIND)),
    "queries, keys, values in bytes of e4m3": lambda: qkv(fp8.KIND),
    "rotations": rotations,
    "linear of a token": lambda: KERNELS.linear(empty(1, 4096), empty(4096, 4096), empty(4096)),
    "linear of tokens": lambda: KERNELS.linear(empty(64, 4096), empty(28672, 4096), None),
    "linear of a prompt": lambda: KERNELS.linear(empty(512, 4096), empty(4096, 4096), None),
    "experts of a token": lambda: grouped(8),
    "experts of a prompt": lambda: grouped(32768),
    "experts chosen": routing,
    "experts in int8 of a token": lambda: grouped_bits(KERNELS.w8a8, 8),
    "experts in int4 of a token": lambda: grouped_bits(KERNELS.int4, 8),
    "experts in fp8 of a token": lambda: grouped_bits(KERNELS.fp8, 8),
    "experts in int8 of a prompt": lambda: grouped_bits(KERNELS.w8a8, 4096),
    "experts in int4 of a prompt": lambda: grouped_bits(KERNELS.int4, 4096),
    "experts in fp8 of a prompt": lambda: grouped_bits(KERNELS.fp8, 4096),
    "adapters of tokens": lambda: adapted(16, 16),
    "adapters of a prompt": lambda: adapted(4096, 4),
    "adapters of many runs": lambda: adapted(4096, 4096),
    "texts": lambda: texts(0),
    "texts with a window": lambda: texts(64),
    "states": states,
    "sampling": sampling,
    "choosing": choosing,
    "int8 of a token": lambda: linear_int8(1),
    "int8 of a prompt": lambda: linear_int8(512),
    "int4 of a token": lambda: KERNELS.int4.linear(empty(1, 4096), KERNELS.int4.pack(empty(256, 4096)), 256, None),
    "int4 of a prompt": lambda: KERNELS.int4.linear(empty(512, 4096), KERNELS.int4.pack(empty(256, 4096)), 256, None),
    "fp8 of a token": lambda: KERNELS.fp8.linear(empty(1, 4096), fp8.store(empty(256, 4096)), 256, None),
    "fp8 of a prompt": lambda: KERNELS.fp8.linear(empty(512, 4096), fp8.store(empty(256, 4096)), 256, None),
}
