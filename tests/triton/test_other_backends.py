"""FlashInfer and FlashAttention 3 behind our seam, with stand-ins for both: neither runs without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from stand_ins import modules

from ramify.core.errors import StartupError
from ramify.ops.attention import AttentionBackend, AttentionShape, Rule
from ramify.ops.cuda.flash import FlashAttention3
from ramify.ops.cuda.flashinfer import FlashInferAttention
from ramify.ops.reference import fp8
from ramify.ops.reference.attention import ReferenceAttention
from tensors import PLAIN, World, close

CPU = torch.device("cpu")
SHAPE = AttentionShape(4, 2, 64, 16, "float16", "cuda")
Make = Callable[[AttentionShape, torch.device], AttentionBackend]
MADE: dict[str, Make] = {"flashinfer": FlashInferAttention, "fa3": FlashAttention3}
backends = pytest.mark.parametrize("make", MADE.values(), ids=MADE)
RULES = [PLAIN, Rule(0.1, window=37), Rule(0.2, window=1), Rule(0.2, softcap=2.0), Rule(0.2, window=20, softcap=5.0)]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def made(make: Make, world: World) -> AttentionBackend:
    return make(replace(SHAPE, heads=world.q.shape[1], kv_heads=world.k.shape[1], page_size=world.k.shape[2]), CPU)


@backends
@pytest.mark.parametrize("page", [1, 16, 64])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
def test_attention(installed: None, make: Make, heads: int, kv_heads: int, page: int) -> None:
    """Rules alternate as layers do, over steps of two kinds."""
    steps = [
        World(rows, heads, kv_heads, 64, page, torch.float16) for rows in ([(1, 1), (40, 130), (1, 64)], [(1, 65)])
    ]
    attention = made(make, steps[0])
    metas = [attention.prepare(world.paged) for world in steps]
    for rule in (*RULES, *RULES):
        for world, meta in zip(steps, metas, strict=True):
            close(attention.forward(world.q, world.k, world.v, meta, rule), world.attend(ReferenceAttention(), rule))


@backends
def test_lengths_come_from_the_device(installed: None, make: Make) -> None:
    world = World([(1, 20), (3, 77)], 4, 2, 64, 16, torch.float16)
    expected = world.attend(ReferenceAttention())
    world.bounded([64, 90])
    close(world.attend(made(make, world)), expected)


def test_pages_of_e4m3(installed: None) -> None:
    world = World([(1, 20), (3, 77)], 4, 2, 64, 16, torch.float16, fp8.KIND)
    close(world.attend(made(FlashInferAttention, world)), world.attend(ReferenceAttention()))


def test_a_kind_of_layer_is_planned_once_a_step(installed: None) -> None:
    world = World([(1, 20)], 4, 2, 64, 16, torch.float16)
    attention = FlashInferAttention(SHAPE, CPU)
    for _ in range(2):
        meta = attention.prepare(world.paged)
        for rule in (PLAIN, RULES[1], PLAIN, RULES[1]):
            attention.forward(world.q, world.k, world.v, meta, rule)
    assert [wrapper.plans for wrapper in attention._wrappers.values()] == [2, 2]


def test_a_lasting_step_takes_other_numbers(installed: None) -> None:
    first = World([(1, 120), (1, 20)], 4, 2, 64, 16, torch.float16)
    attention = FlashAttention3(SHAPE, CPU)
    own = attention.lasting(attention.prepare(first.paged), 40)
    for rows in ([(1, 30), (1, 600)], [(1, 3), (1, 4)]):
        world = World(rows, 4, 2, 64, 16, torch.float16)
        attention.refresh(own, attention.prepare(world.paged))
        close(attention.forward(world.q, world.k, world.v, own, PLAIN), world.attend(ReferenceAttention()))
    assert FlashInferAttention(SHAPE, CPU).lasting(None, 40) is None  # type: ignore[arg-type]


@backends
@pytest.mark.parametrize(
    ("unlike", "said"),
    [
        ({"dtype": "float32"}, "not in float32"),
        ({"head_dim": 300}, "300 elements"),
        ({"value_dim": 32}, "another size"),
        ({"stored": "int8"}, "int8"),
        ({"sinks": True}, "sinks"),
        ({"chunks": True}, "chunks"),
        ({"trees": True}, "trees"),
    ],
)
def test_what_they_cannot_do(installed: None, make: Make, unlike: dict[str, object], said: str) -> None:
    attention = make(SHAPE, CPU)
    assert attention.reasons_against(replace(SHAPE, stored=SHAPE.dtype, window=True, softcap=True)) == []
    (reason,) = attention.reasons_against(replace(SHAPE, **unlike))  # type: ignore[arg-type]
    assert said in reason


@backends
def test_trees_are_refused(installed: None, make: Make) -> None:
    world = World([(3, 20)], 4, 2, 64, 16, torch.float16)
    world.random_trees()
    with pytest.raises(NotImplementedError, match="trees"):
        made(make, world).prepare(world.paged)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("flashinfer", "flashinfer", "flashinfer-python"),
        ("fa3", "flash_attn_interface", "flash_attn_3"),
    ],
)
def test_not_installed(monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StartupError, match=f"--attention-backend {name} needs the package {package}"):
        MADE[name](SHAPE, CPU)


def test_they_are_imported_only_when_asked_for() -> None:
    import ramify.ops.cuda.platform

    assert ramify.ops.cuda.platform.__name__ in sys.modules
    assert not {"flashinfer", "flash_attn_interface"} & set(sys.modules)
