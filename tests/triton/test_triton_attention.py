"""Paged attention in Triton, in its interpreter, against the reference; and that a query's bits are its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ramify.ops.attention import AttentionShape, Rule
from ramify.ops.cpu.paged import PagedAttention
from ramify.ops.cpu.sdpa import SdpaAttention
from ramify.ops.reference import fp8, int8
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.triton.attention import PROGRAMS, SPLIT, TritonAttention, plan, tiles_of
from tensors import PLAIN, World, close

pytestmark = pytest.mark.triton

CPU = torch.device("cpu")
SINKS = torch.tensor([-1.0, 0.5, 3.0, 20.0])
RULES = {
    "window": Rule(0.2, window=37),
    "narrow": Rule(0.2, window=1),
    "chunk": Rule(0.2, chunk=300),
    "alone": Rule(0.2, chunk=1),
    "capped": Rule(0.2, softcap=2.0),
    "sinks": Rule(0.2, sinks_H=SINKS),
    "all": Rule(0.2, window=270, chunk=400, softcap=5.0, sinks_H=SINKS),
}


def backend(world: World, value: int | None = None) -> TritonAttention:
    heads, size = world.q.shape[1:]
    dtype = str(world.q.dtype).removeprefix("torch.")
    return TritonAttention(AttentionShape(heads, world.k.shape[1], size, world.k.shape[2], dtype, "cpu", value), CPU)


HEADS = [  # heads, key-value heads, size, page, type of queries, type of pages
    (4, 2, 32, 16, torch.float32, torch.float32),
    (6, 2, 80, 1, torch.float16, torch.float16),
    (5, 5, 16, 24, torch.float32, torch.float32),
    (16, 1, 48, 64, torch.float16, torch.float16),
    (4, 2, 32, 16, torch.float16, torch.int8),
    (4, 2, 32, 4, torch.float32, torch.float16),
    (4, 2, 16, 16, torch.float16, torch.float8_e4m3fn),
]
SLOW = [
    (heads, kv, size, page, dtype, stored)
    for heads, kv, size in ((4, 2, 32), (2, 2, 64), (6, 2, 128), (2, 1, 112), (3, 1, 192), (2, 1, 256))
    for page in (1, 3, 16, 64)
    for dtype, stored in ((torch.float32, torch.float32), (torch.float16, torch.float16), (torch.float16, torch.int8))
]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "page", "dtype", "stored"),
    [*HEADS, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_attention(heads: int, kv_heads: int, size: int, page: int, dtype: torch.dtype, stored: torch.dtype) -> None:
    """What nobody wrote is NaN and is not looked at."""
    world = World([(1, 1), (40, 130), (1, 300)], heads, kv_heads, size, page, dtype, stored)
    ours = world.attend(backend(world))
    assert ours.isfinite().all()
    close(ours, world.attend(ReferenceAttention()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pages_of_e4m3(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Bytes, as the interpreter knows no NaN of the type; where there is none, the type has the same bits."""
    world = World([(1, 300), (20, 70)], 4, 2, 32, 16, dtype, fp8.KIND)
    world.k[world.tables[0, 2].long(), 0, 3] = torch.arange(32, dtype=torch.uint8).view(fp8.KIND)  # the smallest
    expected = world.attend(backend(world))
    close(expected, world.attend(ReferenceAttention()))
    world.k, world.v = (pool.float().nan_to_num(0.0).to(fp8.KIND) for pool in (world.k, world.v))
    monkeypatch.setattr("ramify.ops.triton.attention.launched", lambda pool: pool)
    assert torch.equal(world.attend(backend(world)), expected)


def test_a_latent_in_e4m3_is_its_value() -> None:
    world = World([(1, 300), (20, 70)], 5, 1, 48, 16, torch.float16, fp8.KIND)
    world.v = world.k[..., :32]
    expected = world.attend(backend(world, 32))
    close(expected, world.attend(ReferenceAttention()))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rules(rule: Rule) -> None:
    world = World([(1, 520), (20, 300)], 4, 2, 16, 16, torch.float32)
    close(world.attend(backend(world), rule), world.attend(ReferenceAttention(), rule))


@pytest.mark.parametrize(("heads", "size", "value"), [(5, 48, 32), (3, 32, 16)])
def test_values_that_are_part_of_keys(heads: int, size: int, value: int) -> None:
    """Latent attention: values are what is loaded first of a key, or a part of that."""
    world = World([(1, 300), (20, 70)], heads, 1, size, 16, torch.float16)
    world.v = world.k[..., :value]
    ours = world.attend(backend(world, value))
    assert ours.shape == (21, heads, value)
    close(ours, world.attend(ReferenceAttention()))


@pytest.mark.parametrize("rule", [PLAIN, RULES["all"]], ids=["plain", "all"])
def test_a_query_has_its_bits_however_it_is_computed(ordered: None, rule: Rule) -> None:
    """In one prompt, in chunks cut anywhere, alone, with pages of another size, among others: split or not."""
    length = 330
    whole = World([(length, length)], 4, 2, 16, 16, torch.float32)
    expected = whole.attend(backend(whole), rule)
    for page, first, count in ((16, 250, 80), (5, 329, 1), (16, 255, 3)):
        part = World([(count, first + count), (1, 33)], 4, 2, 16, page, torch.float32)
        part.q[:count] = whole.q[first : first + count]
        _copy(whole, part, first + count)
        assert torch.equal(part.attend(backend(part), rule)[:count], expected[first : first + count])


def test_what_stands_before_a_window_is_not_looked_at() -> None:
    world = World([(1, 300), (9, 300)], 4, 2, 16, 4, torch.float32)
    before = world.attend(backend(world), RULES["window"])
    for row, count in ((0, 1), (1, 9)):
        gone = world.paged.tables[row, : (300 - count - 37 + 1) // 4].long()
        world.k[gone], world.v[gone] = float("nan"), float("inf")
    assert torch.equal(world.attend(backend(world), RULES["window"]), before)


@pytest.mark.parametrize("stored", [torch.float32, torch.int8, fp8.KIND])
def test_nan_in_a_key_shows(stored: torch.dtype) -> None:
    world = World([(1, 90)], 4, 2, 32, 16, torch.float32, stored)
    broken = torch.full((2, 32), float("nan"))
    world.k[world.tables[0, 0].item(), :, 3] = int8.store(broken) if stored is torch.int8 else broken.to(stored)
    assert world.attend(backend(world)).isnan().all()


def test_a_lasting_step_takes_other_numbers() -> None:
    """Rows that were short are long now and the other way round; what is left over of the one before does nothing."""
    first = World([(1, 520), (1, 20)], 4, 2, 16, 16, torch.float32)
    attention = backend(first)
    own = attention.lasting(attention.prepare(first.paged), 64)
    for rows in ([(1, 30), (1, 600)], [(1, 3), (1, 4)]):
        world = World(rows, 4, 2, 16, 16, torch.float32)
        attention.refresh(own, attention.prepare(world.paged))
        lasting = attention.forward(world.q, world.k, world.v, own, PLAIN)
        assert torch.equal(lasting, world.attend(attention))


BOUNDED = [  # rows, upper bounds of their lengths, and whether some row is split
    ([(1, 20), (1, 600)], [900, 700], True),
    ([(3, 257), (1, 1)], [1300, 5], True),
    ([(80, 130), (1, 200)], [700, 256], False),
]


@pytest.mark.parametrize("rule", [PLAIN, RULES["all"]], ids=["plain", "all"])
@pytest.mark.parametrize(("rows", "bounds", "split"), BOUNDED)
def test_bounds_of_lengths_change_no_bit(
    rows: list[tuple[int, int]], bounds: list[int], split: bool, rule: Rule
) -> None:
    """A step is planned from them, and computed from the exact lengths."""
    world = World(rows, 4, 2, 16, 16, torch.float32)
    attention = backend(world)
    exact = world.attend(attention, rule)
    world.bounded(bounds)
    bounded = attention.prepare(world.paged)
    longest = attention.prepare(replace(world.paged, lengths_N=None))
    assert torch.equal(bounded.items_I4, longest.items_I4)
    assert (bounded.parts > 0) == split
    assert torch.equal(attention.forward(world.q, world.k, world.v, bounded, rule), exact)
    if max(count for count, _ in rows) == 1:
        own = attention.lasting(longest, 128)
        attention.refresh(own, bounded)
        assert torch.equal(attention.forward(world.q, world.k, world.v, own, rule), exact)


TREES = [  # heads, key-value heads, page, rows; `random_trees` makes trees of those that have 2 to 64 queries
    (4, 2, 1, [(7, 40), (1, 300), (64, 64)]),
    (2, 2, 5, [(20, 275), (1, 1), (9, 9)]),
    pytest.param(3, 1, 16, [(64, 290), (70, 100), (3, 300)], marks=pytest.mark.slow),
    pytest.param(8, 2, 64, [(12, 300), (2, 30)], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("rule", [PLAIN, RULES["narrow"], Rule(0.2, window=5), RULES["all"]], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "page", "rows"), TREES)
def test_trees(heads: int, kv_heads: int, page: int, rows: list[tuple[int, int]], rule: Rule) -> None:
    """Each draft has what it would have if only its branch stood in the pages."""
    rule = rule if heads == 4 else replace(rule, sinks_H=None)
    world = World(rows, heads, kv_heads, 16, page, torch.float32)
    parents = world.random_trees()
    expected = world.attend(ReferenceAttention(), rule)
    close(expected, world.branches(parents, rule))
    close(world.attend(backend(world), rule), expected)
    if rule.softcap is None and rule.sinks_H is None:
        close(world.attend(SdpaAttention(page), rule), expected)


def test_a_row_that_is_a_chain_has_the_bits_of_one_that_is_no_tree() -> None:
    """Whether it is called a tree or not, and whatever else is one in its step."""
    world = World([(20, 300), (1, 520), (66, 90)], 4, 2, 16, 16, torch.float32)
    plain = world.attend(backend(world), RULES["all"])
    chain = torch.zeros(87, dtype=torch.int64)
    chain[:20] = 2 ** torch.arange(1, 21) - 1
    for trees in (chain, torch.zeros_like(chain)):
        world.paged = replace(world.paged, trees_T=trees)
        assert torch.equal(world.attend(backend(world), RULES["all"]), plain)


def test_a_lasting_step_takes_other_trees() -> None:
    world = World([(5, 300), (5, 20)], 4, 2, 16, 16, torch.float32)
    world.random_trees(1)
    attention = backend(world)
    own = attention.lasting(attention.prepare(world.paged), 64)
    world.random_trees(2)
    attention.refresh(own, attention.prepare(world.paged))
    lasting = attention.forward(world.q, world.k, world.v, own, PLAIN)
    assert torch.equal(lasting, world.attend(attention))


def test_who_knows_no_trees() -> None:
    world = World([(2, 9)], 4, 2, 16, 16, torch.float32)
    world.random_trees()
    compiled = PagedAttention(None)
    with pytest.raises(NotImplementedError, match="trees"):
        compiled.prepare(world.paged)
    shape = AttentionShape(4, 2, 16, 16, "float32", "cpu", trees=True)
    assert any("trees" in reason for reason in compiled.reasons_against(shape))
    assert not any("trees" in reason for reason in SdpaAttention(16).reasons_against(shape))


TILES = tiles_of(128, 128, 2)


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [([1], [100_000]), ([1] * 256, [9000] * 256), ([1, 512, 7], [70_000, 4000, 300]), ([8192], [8192])],
)
def test_a_plan_covers_every_split_of_every_tile_once(counts: list[int], lengths: list[int]) -> None:
    planned = plan(np.array(counts), np.array(lengths), 32, 8, TILES, 1 << 17)
    covered: dict[tuple[int, int], list[range]] = {}
    for row, tile, first, many in planned.items_I4.tolist():
        covered.setdefault((row, tile), []).append(range(first, first + many))
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        for tile in range(-(-count * 4 // planned.lines)):
            last = length - count + min((tile + 1) * planned.lines, count * 4) // 4 - 1
            runs = sorted(covered.pop((row, tile)), key=lambda run: run.start)
            assert [split for run in runs for split in run] == list(range(last // SPLIT + 1))
            assert len(runs) == 1 or planned.at_R[row] >= 0
    assert not covered
    assert (np.diff(planned.items_I4[:, 3]) <= 0).all(), "long items first"


def test_one_long_row_fills_the_device_and_many_are_not_split() -> None:
    one = plan(np.array([1]), np.array([100_000]), 32, 8, TILES, 1 << 17)
    assert len(one.items_I4) * 8 > PROGRAMS / 2
    many = plan(np.ones(256, dtype=int), np.full(256, 9000), 32, 8, TILES, 1 << 17)
    assert many.parts == 0
    assert (many.at_R == -1).all()


def test_what_there_is_no_room_for_is_not_split() -> None:
    counts, lengths = np.ones(8, dtype=int), np.full(8, 50_000)
    planned = plan(counts, lengths, 32, 8, TILES, 1000)
    assert planned.parts == 0
    assert plan(counts, lengths, 32, 8, TILES, 1 << 17).parts > 0


def test_what_it_cannot_serve() -> None:
    shape = AttentionShape(8, 2, 64, 16, "bfloat16", "cuda", window=True, softcap=True, sinks=True)
    attention = TritonAttention(shape, CPU)
    assert attention.reasons_against(shape) == []
    assert "int8" in attention.reasons_against(replace(shape, dtype="int8"))[0]
    assert "640" in attention.reasons_against(replace(shape, head_dim=1024))[0]


def _copy(source: World, target: World, length: int) -> None:
    """The first positions of the first row of one to that of the other."""
    positions = torch.arange(length)
    for of, to in ((source.k, target.k), (source.v, target.v)):
        a, b = of.shape[2], to.shape[2]
        to[target.tables[0, positions // b].long(), :, positions % b] = of[
            source.tables[0, positions // a].long(), :, positions % a
        ]
