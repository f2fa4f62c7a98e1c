"""The worker on a device that is behind the host: the same tokens, whenever that gets around to computing them."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import MACHINE
from lora import make_adapter
from models import save

import ramify
from lagging import LaggingPlatform, LookedError
from ramify.adapters.table import AdapterTable, Fitted
from ramify.config.model import read_config
from ramify.config.read import overlay
from ramify.config.resolve import resolve
from ramify.config.settings import Settings
from ramify.core.params import SamplingParams
from ramify.engine.assemble import make_runner
from ramify.layers.passages import Passages
from ramify.ops.cuda.modes import TwoModes
from ramify.ops.platform import Platform, make_platform
from ramify.ops.staging import HostStaging
from ramify.wire.plan import Grant, Opened, Plan, Row
from ramify.wire.result import StepResult
from ramify.worker.encode import EncoderRunner
from ramify.worker.executor import ThreadExecutor
from ramify.worker.pooling import NoPooler
from ramify.worker.runner import Runner

PAGE = 16
LENGTHS = (3, 40, 17, 90, 5, 64, 33, 12)
NEW = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lagging")
    save("qwen3", made)
    return made


@contextmanager
def engine_on(
    platform: LaggingPlatform, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[Any]:
    """An engine whose device is that of `platform`."""
    monkeypatch.setattr("ramify.ops.platform.make_platform", lambda *_: platform)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # tensors of our own know nothing of it
    with platform.lagging.here(waits=True):
        engine = engine_of(folder, **settings)
    with engine:
        yield engine


def engine_of(folder: Path, **settings: Any) -> ramify.Engine:
    given = {"dtype": "float32", "threads": 1, "max_total_tokens": 4096, "skip_tokenizer_init": True, **settings}
    return ramify.Engine(str(folder), attention_backend="reference", linear_backend="torch", **given)


def requests() -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Prompts of many lengths, two with a beginning in common; and every way to sample."""
    rnd = random.Random(5)
    prompts = [[rnd.randrange(3, 200) for _ in range(length)] for length in LENGTHS]
    prompts[5][:30] = prompts[3][:30]
    ways: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.8, "sampling_seed": 3},
        {"temperature": 1.2, "top_p": 0.7, "top_k": 20, "sampling_seed": 4},
        {"temperature": 0, "frequency_penalty": 0.7, "presence_penalty": 0.3, "repetition_penalty": 1.2},
        {"temperature": 0, "logit_bias": {"7": 4.0, "9": -4.0}},
        {"temperature": 1.0, "min_p": 0.05, "sampling_seed": 5, "min_new_tokens": 20, "stop_token_ids": [11, 12, 13]},
        {"temperature": 0, "max_new_tokens": 3},
        {"temperature": 0},
    ]
    return prompts, [{"max_new_tokens": NEW, "ignore_eos": True, **way} for way in ways]


def asked(engine: Any) -> list[Any]:
    """Twice, so that the second round has beginnings in the cache."""
    prompts, ways = requests()
    found = []
    for _ in range(2):
        answers = engine.generate(
            input_ids=prompts, sampling_params=ways, return_logprob=True, logprob_start_len=2, top_logprobs_num=2
        )
        info = [answer["meta_info"] for answer in answers]
        found.append([answer["output_ids"] for answer in answers])
        found.append([each["output_token_logprobs"] for each in info])
        found.append([each["input_token_logprobs"] for each in info])
        found.append([each["output_top_logprobs"] for each in info])
        answers = engine.generate(input_ids=prompts, sampling_params=ways)
        found.append([answer["output_ids"] for answer in answers])
    return found


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[Any]:
    with engine_of(folder) as engine:
        return asked(engine)


def assert_alike(found: Any, wanted: Any) -> None:
    """The same tokens; numbers nearly, as torch sums up in an order of its own for every number of rows."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("sizes", "lag", "settings"),
    [
        ((), 0.0, {}),
        ((), 0.99, {}),
        ((1, 2, 4, 8), 0.98, {}),
        ((1, 3, 6), 0.9, {"page_size": 1, "chunked_prefill_size": 13}),
        ((8,), 0.98, {"disable_overlap_schedule": True}),
    ],
)
def test_the_same_tokens_however_late(
    folder: Path,
    wanted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, ...],
    lag: float,
    settings: dict[str, Any],
) -> None:
    platform = LaggingPlatform(sizes, seed=1, lag=lag)
    with engine_on(platform, folder, monkeypatch, **settings) as engine:
        assert_alike(asked(engine), wanted)
    assert platform.lagging.queue.asked > 1000
    if sizes:
        assert platform.capturer is not None
        assert 0 < platform.capturer.made <= len(sizes)
        assert platform.capturer.replayed > 5
        assert not any(thread.is_alive() for thread in platform.capturer.threads())


FAMILIES = ("gemma3", "mixtral", "gpt-oss", "deepseek-v3", "mamba2", "qwen3-next", "granite4-moe", "gpt2")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(family, tmp_path)
    prompts, ways = (
        [[5, 9, 30, 7] * 9, [8, 9, 10], [17] * 20],
        {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True},
    )
    with engine_of(tmp_path) as engine:
        wanted = [each["output_ids"] for each in engine.generate(input_ids=prompts, sampling_params=ways)]
    platform = LaggingPlatform((2, 4), seed=2, lag=0.98)
    with engine_on(platform, tmp_path, monkeypatch, chunked_prefill_size=16) as engine:
        for _ in range(2):
            found = engine.generate(input_ids=prompts, sampling_params=ways)
            assert [each["output_ids"] for each in found] == wanted
    assert platform.capturer is not None
    assert platform.capturer.replayed > 0


def test_what_is_told_of_the_insides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden states, which stand in memory that later steps use again; prompts that are vectors."""
    rnd, params = random.Random(1), {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    prompts = [[rnd.randrange(3, 200) for _ in range(length)] for length in (30, 5, 50)]
    vectors = torch.randn(20, 64, generator=torch.Generator().manual_seed(1)) / 8

    def told(engine: Any) -> Any:
        seen = engine.generate(input_ids=prompts, sampling_params=params, return_hidden_states=True)
        read = engine.generate(input_embeds=vectors, sampling_params=params)["output_ids"]
        return [(each["output_ids"], each["meta_info"]["hidden_states"]) for each in seen], read

    settings = {"enable_return_hidden_states": True, "chunked_prefill_size": 16}
    with engine_of(folder, **settings) as engine:
        expected = told(engine)
    platform = LaggingPlatform((1, 4), seed=3, lag=0.99)
    with engine_on(platform, folder, monkeypatch, **settings) as engine:
        assert_alike(told(engine), expected)
    assert platform.capturer is not None
    assert platform.capturer.replayed > 0


def test_vectors_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("qwen3", tmp_path)
    asked, settings = [[5, 6, 7] * 9, [8] * 4, [9, 10] * 20], {"is_embedding": True, "chunked_prefill_size": 16}
    with engine_of(tmp_path, **settings) as engine:
        expected = [each["embedding"] for each in engine.encode(input_ids=asked)]
    with engine_on(LaggingPlatform(seed=4), tmp_path, monkeypatch, **settings) as engine:
        assert_alike([each["embedding"] for each in engine.encode(input_ids=asked)], expected)


def test_grammars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of a step are sent while it is computed."""
    platform = LaggingPlatform((1, 2, 4), seed=5, lag=0.95)
    monkeypatch.setattr("ramify.ops.platform.make_platform", lambda *_: platform)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    with platform.lagging.here(waits=True):
        engine = ramify.Engine(threads=1, dtype="float32", attention_backend="reference", linear_backend="torch")
    params = {"temperature": 1.0, "max_new_tokens": 24, "regex": "(red|green|blue)( and (red|green|blue)){1,3}!"}
    with engine:
        answers = engine.generate(["My colours are ", "I like ", "Paint it "], params)
    for answer in answers:
        assert re.fullmatch(params["regex"], answer["text"])


def test_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of different ranks, with a head of one's own, with embeddings; moved in and out of two slots, captured or not."""
    base = save("qwen3", tmp_path / "base")
    made = [
        make_adapter(base, tmp_path, "a", 4, ["q_proj", "down_proj", "embed_tokens"]),
        make_adapter(base, tmp_path, "b", 3, ["v_proj", "gate_proj"], modules_to_save=["lm_head"]),
        make_adapter(base, tmp_path, "c", 2, ["o_proj"], modules_to_save=["embed_tokens"]),
    ]
    names = ["a", None, "b", "c", "a", "b"]
    prompts, params = [[5, 9, 30, 7] * 5] * len(names), {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}
    settings = {"lora_paths": {each.name: str(each.path) for each in made}, "max_loras_per_batch": 2}

    def said(engine: Any) -> list[Any]:
        rounds = [engine.generate(input_ids=prompts, sampling_params=params, lora_path=names) for _ in range(2)]
        return [each["output_ids"] for answers in rounds for each in answers]

    with engine_of(tmp_path / "base", **settings) as engine:
        expected = said(engine)
    assert len({tuple(each) for each in expected[:4]}) == 4, "adapters that change nothing show nothing"
    platform, hold = LaggingPlatform((2, 4), seed=6, lag=0.98), AdapterTable.hold

    def held_there(table: AdapterTable, id: int, fitted: Fitted) -> None:
        with platform.lagging.here(waits=True), torch.no_grad():
            hold(table, id, fitted)

    monkeypatch.setattr(AdapterTable, "hold", held_there)
    with engine_on(platform, tmp_path / "base", monkeypatch, **settings) as engine:
        assert said(engine) == expected
    assert platform.capturer is not None
    assert platform.capturer.replayed > 0


# -- captured steps and two sets of kernels ----------------------------------------------------------------------------


@pytest.mark.parametrize(("failing", "is_captured"), [(2, True), (3, False)])
def test_captures_that_fail_take_nothing_from_the_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: int, is_captured: bool
) -> None:
    platform = LaggingPlatform((1, 2), seed=7, lag=0.9)
    assert platform.capturer is not None
    platform.capturer.failing = failing
    params = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    with engine_of(folder) as engine:
        expected = engine.generate(input_ids=[5, 6, 7], sampling_params=params)["output_ids"]
    with engine_on(platform, folder, monkeypatch) as engine:
        for _ in range(4):
            assert engine.generate(input_ids=[5, 6, 7], sampling_params=params)["output_ids"] == expected
    assert (platform.capturer.replayed > 0) == is_captured


def test_steps_go_on_while_one_is_captured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = LaggingPlatform((1,), seed=8, lag=0.9)
    assert platform.capturer is not None
    platform.capturer.held.clear()
    params = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    with engine_on(platform, folder, monkeypatch) as engine:
        first = engine.generate(input_ids=[5, 6, 7], sampling_params=params)["output_ids"]
        assert (platform.capturer.made, platform.capturer.replayed) == (0, 0)
        platform.capturer.held.set()
        while not platform.capturer.made:
            time.sleep(0.01)
        assert engine.generate(input_ids=[5, 6, 7], sampling_params=params)["output_ids"] == first
        assert platform.capturer.replayed > 0


def test_the_mode_of_a_plan_is_that_of_its_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager and captured: kernels of the two kinds say different things here."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    told = {}
    for sizes in ((), (1,)):
        for modes in ((False,) * 8, (True,) * 8, (False, True) * 4):
            platform = LaggingPlatform(sizes, seed=9, lag=0.9)
            with platform.lagging.here(waits=True):
                executor = ThreadExecutor(runner_on(platform, folder), platform.prepare_thread)
            told[sizes, modes] = said_in_modes(executor, modes)
            assert (platform.invariant_linears > 0) == any(modes)
            if platform.capturer is not None:
                assert platform.capturer.made == len(set(modes))
    for modes in {modes for _, modes in told}:
        assert told[(), modes] == told[(1,), modes]
    assert len({tuple(each) for each in told.values()}) == 3


def said_in_modes(executor: ThreadExecutor, modes: tuple[bool, ...]) -> list[int]:
    """Greedy tokens of a request whose steps are computed in turn as `modes` say, twice over."""
    opened = Opened(0, 1, [7, 3, 9, 11, 5], 5, 0, SamplingParams(temperature=0), 3)
    grants, found = [Grant(0, 0, list(range(1, 9)))], []
    for step, invariant in enumerate((modes[0], *modes, *modes), 1):
        first = step == 1
        row = Row(0, 1, 5 if first else 1, True)
        plan = Plan(step, [row], [opened] if first else [], grants if first else [], [], [], invariant=invariant)
        executor.launch(plan)
        found += executor.sample(plan).wait().tokens[0]
        time.sleep(0.02)  # so that a capture has a chance
    executor.close()
    return found


def test_an_encoder_computes_in_the_mode_of_its_plan() -> None:
    modes, seen = TwoModes(), []

    def model(texts: Passages) -> torch.Tensor:
        seen.append(modes.invariant)
        return torch.zeros(len(texts.tokens_T), 4)

    runner = EncoderRunner(model, NoPooler(), HostStaging(), modes)
    for step, invariant in enumerate((True, False, True)):
        opened = [Opened(0, step, [1, 2, 3], 3, 0, SamplingParams(), 0)]
        runner.forward(Plan(step, [Row(0, step, 3, False)], opened, [], [], [], invariant=invariant))
    assert seen == [True, False, True]


# -- drafts and faults: plans that no scheduler of today makes ---------------------------------------------------------


def runner_on(platform: Platform, folder: Path) -> Runner:
    asked = {"max_total_tokens": 4096, "dtype": "float32", "threads": 1, "page_size": PAGE}
    settings = overlay(Settings(), {"model_path": str(folder), "attention_backend": "reference", **asked}, "test")
    runner = make_runner(resolve(settings, read_config(folder), folder, MACHINE), platform)
    assert isinstance(runner, Runner)
    return runner


def plans(seed: int) -> Iterator[Plan]:
    """Two requests of one text in fixed pages, and steps with guesses, most of them wrong. The host does not know how
    many of these were right before it plans on: whoever computes has to.
    """
    rnd, prompt = random.Random(seed), [7, 3, 9, 11, 5] * 5
    two = {34: 60.0, 7: 60.0}  # of which one is drawn: a guess has a chance
    ways = [SamplingParams(temperature=1 + slot, logit_bias=two) for slot in (0, 1)]
    opened = [Opened(slot, 1, prompt, len(prompt), 0, way, 3) for slot, way in enumerate(ways)]
    grants = [Grant(0, 0, list(range(1, 9))), Grant(1, 0, list(range(11, 19)))]
    yield Plan(1, [Row(slot, 1, len(prompt), True) for slot in (0, 1)], opened, grants, [], [])
    for step in range(2, 14):
        guesses = [tuple(rnd.choice((34, 7, 7, 77)) for _ in range(rnd.randrange(4))) for _ in (0, 1)]
        rows = [Row(slot, 1, 1 + len(some), True, drafts=some) for slot, some in enumerate(guesses)]
        yield Plan(step, rows, [], [], [], [])


def results(platform: Platform, folder: Path, asked: list[Plan], late: int) -> list[StepResult]:
    """`late`: how many steps are asked for before the answer of the first is read."""
    executor = ThreadExecutor(runner_on(platform, folder), platform.prepare_thread)
    pending, found = [], []
    for plan in asked:
        executor.launch(plan)
        pending.append(executor.sample(plan))
        if len(pending) > late:
            found.append(pending.pop(0).wait())
    found += [each.wait() for each in pending]
    executor.close()
    return found


@pytest.mark.parametrize("late", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_drafts_are_verified_where_the_lengths_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int, late: int
) -> None:
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    asked = list(plans(seed))
    wanted = results(make_platform("cpu", 1, "float32", "torch"), folder, asked, 0)
    platform = LaggingPlatform((2,), seed=seed, lag=0.99)
    with platform.lagging.here(waits=True):
        found = results(platform, folder, asked, late)
    assert [each.tokens for each in found] == [each.tokens for each in wanted]
    taken = [len(tokens) - 1 for each in wanted for tokens in each.tokens]
    assert sum(taken) > 0, "no guess was right: this shows little"
    assert len(wanted[-1].faults) == 0


@pytest.mark.parametrize("closed_first", [False, True])
def test_pages_of_a_fault_are_wiped_however_late_it_is_learned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, closed_first: bool
) -> None:
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    platform = LaggingPlatform(seed=1, lag=0.99)
    with platform.lagging.here(waits=True):
        runner = runner_on(platform, folder)
    executor = ThreadExecutor(runner, platform.prepare_thread)
    vectors = torch.full((20, 64), torch.nan).numpy().tobytes()
    opened = Opened(0, 1, [0] * 20, 20, 0, SamplingParams(), 0, vectors=vectors)
    plan = Plan(1, [Row(0, 1, 20, True)], [opened], [Grant(0, 0, [3, 4])], [], [])
    closing = Plan(2, [], [], [], [], [0])
    executor.launch(plan)
    pending = executor.sample(plan)
    if closed_first:  # its user has left
        executor.launch(closing)
        executor.sample(closing).wait()
    assert list(pending.wait().faults) == [0]
    if not closed_first:
        executor.launch(closing)
        executor.sample(closing).wait()
    executor.in_turn(lambda: None).result()
    platform.lagging.queue.until(platform.lagging.queue.asked)
    k = runner.pool.pools[0].k.real  # type: ignore[attr-defined]
    assert (~k.isfinite()).nonzero().tolist() == []
    assert runner.pool.pools[0].k.shape[1] > 4
    executor.close()


def test_the_device_notices_who_looks() -> None:
    platform = LaggingPlatform(lag=1.0)
    with platform.lagging.here(), torch.no_grad():
        (x,) = platform.staging.send(np.arange(4))
        for look in (
            lambda: x.tolist(),
            lambda: bool(x[0]),
            lambda: x.cpu(),
            lambda: x[x > 1],
            lambda: x + torch.ones(4),
        ):
            with pytest.raises((LookedError, RuntimeError)):
                look()
        fetched = platform.staging.fetch([x * 2])
        assert platform.lagging.queue.done == 0
    assert fetched.wait()[0].tolist() == [0, 2, 4, 6]
