"""Steps that are made again instead of computed anew: the same bits, over memory that is used again."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from harness import make_runner
from models import save
from torch import Tensor

from ramify.core.params import SamplingParams
from ramify.layers.batch import Batch
from ramify.layers.separate import SeparateLinear
from ramify.ops.cpu.library import load
from ramify.ops.cpu.record import Arena, CpuRecorder, Functions
from ramify.ops.recording import CannotRecordError
from ramify.wire.plan import Grant, Opened, Plan, Row
from ramify.worker.forward import Forward
from ramify.worker.inputs import make_inputs
from ramify.worker.runner import Runner

pytestmark = pytest.mark.skipif(load() is None, reason="the kernels are not compiled in this installation")


@pytest.fixture
def recorder() -> CpuRecorder:
    library = load()
    assert library is not None
    return CpuRecorder(Functions(library))


HOW = [
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "quantization": "w8a8", "kv_cache_dtype": "int8"},
    {"dtype": "bfloat16", "quantization": "int4"},
]
WHAT = [
    *[("qwen3", how) for how in HOW],
    ("gpt2", HOW[1]),
    ("gemma3", HOW[1]),
    ("gemma3", HOW[2]),
    ("gpt-oss", HOW[0]),
    ("mixtral", HOW[1]),
    ("mixtral", HOW[3]),
    ("deepseek-v3", HOW[1]),
    ("mamba2", HOW[0]),
    ("granite4-moe", HOW[1]),
    ("qwen3-next", HOW[1]),
    ("qwen3-next-dense", HOW[3]),
]


@pytest.fixture(scope="module", params=WHAT, ids=lambda what: "-".join([what[0], *what[1].values()]))
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Six requests of different lengths, their prompts computed."""
    folder, (name, how) = tmp_path_factory.mktemp("recording"), request.param
    save(name, folder)
    made, rnd, first = make_runner(folder, **how), random.Random(0), 1
    for slot in range(6):
        tokens = [rnd.randrange(3, 200) for _ in range(5 + 37 * slot)]
        pages = list(range(first, first + 20))
        first += 20
        opened = Opened(slot, 1, tokens, len(tokens), 0, SamplingParams(), 0)
        grants = [Grant(slot, group, pages) for group in range(len(made.pool.pools))]
        if made.pool.states is not None:
            grants.append(Grant(slot, 1, [slot + 1] * 20))
        plan = Plan(slot, [Row(slot, 1, len(tokens), True)], [opened], grants, [], [])
        with torch.inference_mode():
            made.sample(made.forward(plan))
    return made


def a_token_each(runner: Runner, slots: list[int]) -> Batch:
    rows = [Row(slot, 1, 1, True) for slot in slots]
    return make_inputs(rows, runner.slots, runner.pool, runner.attention).batch


def test_what_is_made_again_has_the_bits_of_what_is_computed(runner: Runner, recorder: CpuRecorder) -> None:
    kept = recorder_of(runner)
    forward = Forward(runner.model, runner.attention, kept, runner.slots.tables[0].shape[1])
    seen = set()
    with torch.inference_mode():
        for slots in ([0], [3], [1, 4], [5, 0], [0, 1, 2, 3, 4, 5], [2], [5, 4, 3, 2, 1, 0], [1, 2]):
            batch = a_token_each(runner, slots)
            with states_kept(runner):
                wanted = runner.model(batch)
            runner.pool.pools[0].k[:, :, :, -1] += 0  # nothing may hang on what stood in the pool's last slots
            with states_kept(runner):
                found = forward(batch)
            assert torch.equal(found, wanted)
            seen.add(found[0].double().sum().item())
    assert len(seen) == 5, "a request has the bits it has alone"
    # Quantized experts are computed one after another, those that were chosen: what is done depends on numbers.
    apart = any(isinstance(layer, SeparateLinear) for layer in runner.model.modules())  # type: ignore[attr-defined]
    assert len(forward._recorded) == (0 if apart else 3)


@contextmanager
def states_kept(runner: Runner) -> Iterator[None]:
    """Afterwards they are as they were before."""
    states, every = runner.pool.states, torch.arange(8)
    saved = states.save(every) if states is not None else None
    yield
    if states is not None and saved is not None:
        states.restore(every, saved)


def recorder_of(runner: Runner) -> CpuRecorder:
    kept = runner._hidden._recorder
    assert isinstance(kept, CpuRecorder)
    return kept


def test_prompts_are_not_recorded(runner: Runner) -> None:
    forward = Forward(runner.model, runner.attention, recorder_of(runner), runner.slots.tables[0].shape[1])
    rows = [Row(0, 1, 3, True), Row(1, 1, 1, True)]
    with torch.inference_mode():
        forward(make_inputs(rows, runner.slots, runner.pool, runner.attention).batch)
    assert forward._recorded == {}


def test_operations_of_torch_are_made_again_too(recorder: CpuRecorder) -> None:
    x = torch.arange(6.0).view(2, 3)
    state = torch.zeros(3)

    def compute() -> Tensor:
        state.add_(x[0])
        left, right = (x.t().contiguous() * 2).to(torch.bfloat16).float().split([1, 2])
        return torch.cat([left, right.cos()]) + x.float().t() + state[:, None]

    with torch.inference_mode():
        before, wanted = state.clone(), compute()
        state.copy_(before)
        result, made = recorder.record(compute)
        assert torch.equal(result, wanted)
        assert torch.equal(state, before + x[0])  # once
        for _ in range(3):
            x.copy_(torch.randn(2, 3))
            before = state.clone()
            wanted = compute()
            state.copy_(before)
            assert torch.equal(made(), wanted)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda x: x if bool(x.any()) else -x,
        lambda x: x + torch.rand(3),
        lambda x: x * len(x.tolist()),
        lambda x: x * float(x.numpy()[0]),
        lambda x: torch.nn.functional.dropout(x, 0.5, training=True),
    ],
)
def test_what_hangs_on_numbers_is_not_recorded(recorder: CpuRecorder, compute: Callable[[Tensor], Tensor]) -> None:
    with torch.inference_mode(), pytest.raises(CannotRecordError):
        recorder.record(lambda: compute(torch.ones(3)))
    _, made = recorder.record(lambda: torch.ones(3) * 2)
    assert torch.equal(made(), torch.full((3,), 2.0))


def test_dropout_outside_of_training_is_recorded(recorder: CpuRecorder) -> None:
    x = torch.ones(3)
    with torch.inference_mode():
        _, made = recorder.record(lambda: torch.nn.functional.dropout(x, 0.5, training=False) * 2)
        x.fill_(3)
        assert torch.equal(made(), torch.full((3,), 6.0))


def test_a_model_that_cannot_be_recorded_is_computed(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    def model(batch: Batch) -> Tensor:
        return runner.model(batch) * float(batch.tokens_T.max())

    forward = Forward(model, runner.attention, recorder_of(runner), runner.slots.tables[0].shape[1])  # type: ignore[arg-type]
    with torch.inference_mode(), caplog.at_level(logging.INFO, "ramify.worker.forward"):
        for slots in ([0], [0], [1]):
            batch = a_token_each(runner, slots)
            with states_kept(runner):
                wanted = model(batch)
            assert torch.equal(forward(batch), wanted)
    assert len([record for record in caplog.records if "not recorded" in record.message]) == 1


def test_the_arena_never_gives_a_byte_twice() -> None:
    arena, rnd, held = Arena(), random.Random(1), {}
    most = 0
    for number in range(2000):
        if held and rnd.random() < 0.5:
            tensor, value = held.pop(rnd.choice(list(held)))
            assert bool((tensor == value).all())
            del tensor
        else:
            shape = torch.Size([rnd.randrange(1, 40), rnd.randrange(1, 300)])
            tensor = arena.tensor(shape, rnd.choice([torch.float32, torch.bfloat16, torch.int64]))
            assert tensor.data_ptr() % 64 == 0
            value = number % 100
            held[number] = (tensor.fill_(value), value)
        most = max(most, sum(tensor.nbytes for tensor, _ in held.values()))
    for tensor, value in held.values():
        assert bool((tensor == value).all())
    assert sum(slab.nbytes for slab in arena._slabs) < 2 * most + (8 << 20)
    views = [tensor[1:] for tensor, _ in held.values() if len(tensor) > 1]
    expected = [view.clone() for view in views]
    held.clear()
    del tensor
    gc.collect()
    others = [arena.tensor(torch.Size([50]), torch.float32).fill_(-1) for _ in range(100)]
    assert all(torch.equal(view, clone) for view, clone in zip(views, expected, strict=True)), "a view keeps its memory"
    assert len(others) == 100
