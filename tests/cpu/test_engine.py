"""The engine in this process, on a real trained model: what it computes and how it behaves."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import reference_logits
from transformers import AutoModelForCausalLM, PreTrainedModel

import ramify
from assets import shared
from ramify import BadRequest, UserError
from ramify.core.errors import EngineDead
from ramify.schedule.request import Request

PROMPT = "Once upon a time "
GREEDY = {"temperature": 0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def folder() -> Path:
    return shared("weights/TinyStories-656K")


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[ramify.Engine]:
    with ramify.Engine(str(folder), threads=1) as made:
        yield made


def make(folder: Path, **settings: Any) -> ramify.Engine:
    return ramify.Engine(str(folder), threads=1, **settings)


def logp(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    return reference_logits(model, tokens).log_softmax(-1)


# -- log probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [512, 5])
@pytest.mark.parametrize("start", [0, 1, 7, 40])
def test_prompt_logprobs(folder: Path, model: PreTrainedModel, chunk: int, start: int) -> None:
    rnd = random.Random(start)
    tokens = [rnd.randrange(3, 2048) for _ in range(60)]
    reference = logp(model, tokens)
    with make(folder, chunked_prefill_size=chunk) as engine:
        for _ in ("cold", "warm"):
            answer = engine.generate(
                input_ids=tokens,
                sampling_params={"max_new_tokens": 1, "temperature": 0},
                return_logprob=True,
                logprob_start_len=start,
                top_logprobs_num=3,
                token_ids_logprob=[9, 10],
            )
            meta = answer["meta_info"]
            scored = meta["input_token_logprobs"]
            assert [t[1] for t in scored] == tokens[start:]
            for index, (value, token, _) in enumerate(scored, start):
                if index == 0:
                    assert value is None
                    continue
                row = reference[index - 1]
                assert value == pytest.approx(float(row[token]), abs=1e-4)
                assert [t[1] for t in meta["input_top_logprobs"][index - start]] == row.topk(3).indices.tolist()
                ids = [t[0] for t in meta["input_token_ids_logprobs"][index - start]]
                assert ids == pytest.approx(row[[9, 10]].tolist(), abs=1e-4)
            (output,) = meta["output_token_logprobs"]
            assert output[0] == pytest.approx(float(reference[-1].max()), abs=1e-4)


def test_long_prompts_are_scored_in_blocks(folder: Path, model: PreTrainedModel) -> None:
    """Longer than one block of logits, in one step."""
    rnd = random.Random(5)
    tokens = [rnd.randrange(3, 2048) for _ in range(500)]
    with make(folder) as engine:
        answer = engine.generate(
            input_ids=tokens, sampling_params={"max_new_tokens": 0}, return_logprob=True, logprob_start_len=0
        )
    values = [t[0] for t in answer["meta_info"]["input_token_logprobs"]][1:]
    reference = logp(model, tokens)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    assert torch.allclose(torch.tensor(values), reference, atol=1e-3)


def test_output_logprobs_are_of_the_scaled_distribution(engine: ramify.Engine, model: PreTrainedModel) -> None:
    """As in SGLang: after temperature, before top-p."""
    answer = engine.generate(
        PROMPT,
        {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 6, "sampling_seed": 1},
        return_logprob=True,
        logprob_start_len=0,
    )
    meta = answer["meta_info"]
    tokens = [t[1] for t in meta["input_token_logprobs"]] + answer["output_ids"]
    reference = (reference_logits(model, tokens) / 0.5).log_softmax(-1)
    for offset, (value, token, _) in enumerate(meta["output_token_logprobs"]):
        assert value == pytest.approx(float(reference[meta["prompt_tokens"] - 1 + offset][token]), abs=1e-4)


# -- sampling through the whole engine ---------------------------------------------------------------------------------


def test_sampled_text_survives_preemption_and_company(folder: Path) -> None:
    """The same seeds give the same tokens alone, together, and in a pool so small that requests are recomputed."""
    params = [{"temperature": 1.0, "max_new_tokens": 90, "sampling_seed": n, "ignore_eos": True} for n in range(6)]
    prompts = [f"One day number {n} " for n in range(6)]
    with make(folder) as engine:
        alone = [engine.generate(p, s)["output_ids"] for p, s in zip(prompts, params, strict=True)]
        together = [a["output_ids"] for a in engine.generate(prompts, params)]
    with make(folder, max_total_tokens=256) as tight:
        answers = tight.generate(prompts, params)
    assert sum(a["meta_info"]["num_retractions"] for a in answers) > 0
    assert alone == together == [a["output_ids"] for a in answers]


@pytest.mark.parametrize(
    "settings",
    [{"page_size": 1}, {"chunked_prefill_size": 3}, {"disable_radix_cache": True}, {"disable_overlap_schedule": True}],
    ids=str,
)
def test_sampled_text_does_not_depend_on_settings(
    folder: Path, engine: ramify.Engine, settings: dict[str, Any]
) -> None:
    params = {"temperature": 0.9, "max_new_tokens": 40, "sampling_seed": 11, "top_p": 0.95}
    reference = engine.generate(PROMPT, params)["output_ids"]
    with make(folder, **settings) as other:
        assert other.generate(PROMPT, params)["output_ids"] == reference


def test_penalties_reach_the_sampler(engine: ramify.Engine) -> None:
    plain = engine.generate("the the the ", {**GREEDY, "max_new_tokens": 60, "ignore_eos": True})["output_ids"]
    params = {**GREEDY, "max_new_tokens": 60, "ignore_eos": True, "frequency_penalty": 2.0, "presence_penalty": 2.0}
    penalised = engine.generate("the the the ", params)["output_ids"]
    assert len(set(penalised)) > len(set(plain))


def test_a_bias_forces_and_forbids(engine: ramify.Engine) -> None:
    first = engine.generate(PROMPT, {**GREEDY, "max_new_tokens": 1})["output_ids"][0]
    forbidden = engine.generate(PROMPT, {**GREEDY, "logit_bias": {str(first): -100}})["output_ids"]
    assert first not in forbidden
    forced = engine.generate(PROMPT, {**GREEDY, "logit_bias": {"500": 100}, "max_new_tokens": 5})["output_ids"]
    assert forced == [500] * 5


def test_unseeded_requests_differ_and_keep_their_seed(engine: ramify.Engine) -> None:
    texts = {engine.generate(PROMPT, {"max_new_tokens": 20, "ignore_eos": True})["text"] for _ in range(5)}
    assert len(texts) > 1


class LookUp:
    """Drafts by prompt lookup: what followed the last two tokens before (Saxena 2023)."""

    def propose(self, request: Request, room: int) -> tuple[int, ...]:
        tokens = request.tokens
        for at in range(len(tokens) - 3, 0, -1):
            if tokens[at - 1 : at + 1] == tokens[-2:]:
                return tuple(tokens[at + 1 : at + 1 + min(4, room)])
        return ()


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 0.8, "sampling_seed": 2},
        {"temperature": 0.8, "sampling_seed": 3, "presence_penalty": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("overlap", [False, True])
def test_drafts_change_no_token(folder: Path, params: dict[str, Any], overlap: bool) -> None:
    """The scheduler works on upper bounds and the worker verifies: guesses save steps and nothing else."""
    asked = {"max_new_tokens": 80, "ignore_eos": True, **params}
    prompt = "One day Lily saw a red ball. Lily saw a red ball. Lily saw a red "
    with make(folder, disable_overlap_schedule=not overlap) as engine:
        plain = engine.generate(prompt, asked, return_logprob=True)
        steps = engine._loop.scheduler.counts.steps
        engine.flush_cache()
        engine._loop.scheduler.drafter = LookUp()
        guessed = engine.generate(prompt, asked, return_logprob=True)
        fewer = engine._loop.scheduler.counts.steps - steps
    assert guessed["output_ids"] == plain["output_ids"]
    values = [[t[0] for t in a["meta_info"]["output_token_logprobs"]] for a in (plain, guessed)]
    assert values[0] == pytest.approx(values[1], abs=1e-4)
    if not overlap and params["temperature"] == 0:
        assert fewer < steps


# -- faults ------------------------------------------------------------------------------------------------------------


def test_nan_ends_one_request_and_its_pages_are_clean(folder: Path) -> None:
    """A token whose embedding is NaN: whoever uses it fails, and whoever gets its pages next does not notice."""
    with make(folder, max_total_tokens=512) as engine:
        model = engine._loop.executor.runner.model  # type: ignore[attr-defined]
        embed = model.embedding.forward
        model.embedding.forward = lambda tokens: embed(tokens).masked_fill((tokens == 2040)[:, None], float("nan"))
        reference = engine.generate(PROMPT, GREEDY)["output_ids"]
        for _ in range(3):
            with pytest.raises(UserError, match="NaN"):
                engine.generate(input_ids=[5, 2040, 9] * 40, sampling_params=GREEDY)
            engine.flush_cache()
            answers = engine.generate(
                [PROMPT] + [f"One day {n} " * 6 for n in range(8)], {**GREEDY, "ignore_eos": True}
            )
            assert answers[0]["output_ids"][: len(reference)] == reference
            assert all(len(a["output_ids"]) == 24 for a in answers)


def test_nan_in_an_early_chunk_is_not_found_by_the_next(folder: Path) -> None:
    """Chunks are published as they come: the cache must not keep one that went wrong, when the cause has gone."""
    with make(folder, chunked_prefill_size=16) as engine:
        model = engine._loop.executor.runner.model  # type: ignore[attr-defined]
        embed = model.embedding.forward
        reference = engine.generate(PROMPT, GREEDY)["output_ids"]
        ids = [5] * 20 + [2040] + [9] * 60
        expected = engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]
        engine.flush_cache()
        model.embedding.forward = lambda tokens: embed(tokens).masked_fill((tokens == 2040)[:, None], float("nan"))
        with pytest.raises(UserError, match="NaN"):
            engine.generate(input_ids=ids, sampling_params=GREEDY)
        model.embedding.forward = embed
        answer = engine.generate(input_ids=ids, sampling_params=GREEDY)
        assert answer["output_ids"] == expected
        assert answer["meta_info"]["cached_tokens"] == 16
        assert engine.generate(PROMPT, GREEDY)["output_ids"] == reference


def test_a_step_that_raises_hurts_only_its_cause(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make(folder) as engine:
        runner = engine._loop.executor.runner  # type: ignore[attr-defined]
        forward = runner.forward

        def fragile(plan: Any) -> Any:
            bad = [new.slot for new in plan.opened if 666 in new.tokens]
            fragile.bad |= set(bad)  # type: ignore[attr-defined]
            for new in plan.opened:
                if 666 not in new.tokens:
                    fragile.bad.discard(new.slot)  # type: ignore[attr-defined]
            if any(row.slot in fragile.bad for row in plan.rows):  # type: ignore[attr-defined]
                raise RuntimeError("cannot compute this")
            return forward(plan)

        fragile.bad = set()  # type: ignore[attr-defined]
        reference = engine.generate(PROMPT, GREEDY)["output_ids"]
        runner.forward = fragile
        outcomes: dict[str, Any] = {}

        def ask(name: str, **what: Any) -> None:
            try:
                outcomes[name] = engine.generate(sampling_params=GREEDY, **what)["output_ids"]
            except UserError as e:
                outcomes[name] = e

        threads = [threading.Thread(target=ask, args=(f"good{n}",), kwargs={"prompt": PROMPT}) for n in range(4)]
        threads.append(threading.Thread(target=ask, args=("bad",), kwargs={"input_ids": [1, 666, 3], "rid": "bad"}))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert str(outcomes["bad"]) == "internal error (request bad)"
        assert "of requests bad: cannot compute this" in caplog.text
        assert all(outcomes[f"good{n}"] == reference for n in range(4))


def test_a_device_that_is_lost_ends_the_engine(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No request is tried again on it, and nobody waits for one."""
    with make(folder) as engine:
        runner = engine._loop.executor.runner  # type: ignore[attr-defined]

        def lost(*_: Any) -> None:
            raise torch.AcceleratorError("unspecified launch failure")

        runner.forward = lost
        with pytest.raises(EngineDead, match="has stopped"):
            engine.generate(PROMPT, GREEDY)
        with pytest.raises(EngineDead):
            engine.generate(PROMPT, GREEDY)
    assert "the device failed: unspecified launch failure" in caplog.text


STARTS = ["Once upon a time ", "Once upon a time there was a ", "The fox ", "Tim and Sue "]
FORTY = {"temperature": 0, "max_new_tokens": 40}


@pytest.mark.parametrize("page_size", [1, 16])
def test_a_plan_that_cannot_be_applied_corrupts_no_pages(folder: Path, page_size: int) -> None:
    with ramify.Engine(str(folder), threads=1, page_size=page_size) as engine:
        reference = [engine.generate(prompt, FORTY)["output_ids"] for prompt in STARTS]
        slots = engine._loop.executor.runner.slots  # type: ignore[attr-defined]
        opened = slots.open

        def fragile(some: Any) -> None:
            if any(666 in new.tokens for new in some):
                raise RuntimeError("cannot be opened")
            opened(some)

        slots.open = fragile
        over, found = threading.Event(), {}

        def poison() -> None:
            while not over.is_set():
                with pytest.raises(UserError, match="internal error"):
                    engine.generate(input_ids=[1, 666, 3], sampling_params=FORTY)

        def ask(number: int) -> None:
            found[number] = engine.generate(STARTS[number % 4], FORTY)["output_ids"]

        poisoner = threading.Thread(target=poison)
        poisoner.start()
        try:
            for _ in range(3):
                threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                assert [found[number] for number in range(8)] == reference * 2
        finally:
            over.set()
            poisoner.join(60)
        assert [engine.generate(prompt, FORTY)["output_ids"] for prompt in STARTS] == reference


# -- the Python face ---------------------------------------------------------------------------------------------------


def test_one_many_choices_and_ids(engine: ramify.Engine) -> None:
    one = engine.generate(PROMPT, GREEDY)
    assert isinstance(one, dict)
    many = engine.generate([PROMPT, "One day "], GREEDY)
    assert [type(m) for m in many] == [dict, dict]
    assert many[0]["text"] == one["text"]
    ids = engine.tokenizer.encode(PROMPT)  # type: ignore[union-attr]
    assert engine.generate(input_ids=ids, sampling_params=GREEDY)["text"] == one["text"]
    assert len(engine.generate(PROMPT, {"n": 3, "max_new_tokens": 2})) == 3
    assert len(engine.generate([PROMPT], GREEDY)) == 1


def test_streams(engine: ramify.Engine) -> None:
    whole = engine.generate(PROMPT, GREEDY)
    parts = list(engine.generate(PROMPT, GREEDY, stream=True))
    assert parts[-1]["text"] == whole["text"]
    assert all(b["text"].startswith(a["text"]) for a, b in pairwise(parts))
    stream = engine.generate(PROMPT, {**GREEDY, "max_new_tokens": 400, "ignore_eos": True}, stream=True)
    next(stream)
    stream.close()
    for _ in range(200):
        if not engine.get_server_info()["internal_states"][0]["num_running_reqs"]:
            break
    assert engine.get_server_info()["internal_states"][0]["num_used_tokens"] == 0


def test_async(engine: ramify.Engine) -> None:
    async def play() -> None:
        whole = await engine.async_generate(PROMPT, GREEDY)
        parts = [p async for p in await engine.async_generate(PROMPT, GREEDY, stream=True)]
        assert parts[-1]["text"] == whole["text"]
        both = await asyncio.gather(*(engine.async_generate(PROMPT, GREEDY) for _ in range(3)))
        assert {b["text"] for b in both} == {whole["text"]}

    asyncio.run(play())


def in_use(engine: ramify.Engine) -> int:
    return engine.get_server_info()["internal_states"][0]["num_running_reqs"]


LONG = {"temperature": 0, "max_new_tokens": 480, "ignore_eos": True}


@pytest.mark.parametrize("stream", [False, True])
def test_cancelling_aborts(engine: ramify.Engine, stream: bool) -> None:
    """All prompts of the call, and long before their last token."""

    async def ask() -> None:
        if not stream:
            await engine.async_generate([PROMPT, "One day "], LONG)
            return
        async for _ in await engine.async_generate([PROMPT, "One day "], LONG, stream=True):
            pass

    async def play() -> None:
        before = engine._loop.scheduler.counts.generated_tokens
        task = asyncio.create_task(ask())
        while engine._loop.scheduler.counts.generated_tokens < before + 20:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while await asyncio.to_thread(in_use, engine):
            await asyncio.sleep(0.001)
        assert engine._loop.scheduler.counts.generated_tokens - before < 2 * 480

    asyncio.run(play())


def test_a_stream_left_early_aborts(engine: ramify.Engine) -> None:
    async def play() -> None:
        before = engine._loop.scheduler.counts.generated_tokens
        async with contextlib.aclosing(await engine.async_generate(PROMPT, LONG, stream=True)) as parts:
            async for _ in parts:
                break
        while await asyncio.to_thread(in_use, engine):
            await asyncio.sleep(0.001)
        assert engine._loop.scheduler.counts.generated_tokens - before < 480

    asyncio.run(play())


def test_a_refused_prompt_leaves_the_others_of_its_call_nowhere(engine: ramify.Engine) -> None:
    before = engine._loop.scheduler.counts.generated_tokens
    with pytest.raises(BadRequest, match="longer than the model's context length"):
        engine.generate(input_ids=[[5, 6], [7] * 600], sampling_params=LONG)
    while in_use(engine):
        pass
    assert engine._loop.scheduler.counts.generated_tokens - before < 480


def test_threads_may_share_an_engine(engine: ramify.Engine) -> None:
    reference = engine.generate(PROMPT, GREEDY)["text"]
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(engine.generate(PROMPT, GREEDY)["text"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [reference] * 8


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"prompt": "a", "input_ids": [1]},
        {"prompt": []},
        {"input_ids": [[]]},
        {"input_ids": [2048]},
        {"prompt": "a", "sampling_params": {"temperature": -1}},
        {"prompt": "a", "sampling_params": {"nope": 1}},
        {"prompt": ["a", "b"], "sampling_params": [{}]},
        {"prompt": "a " * 2000},
        {"prompt": ["a", "b"], "rid": ["x", "x"]},
        {"prompt": "a", "rid": "\n\n"},
        {"prompt": "a", "rid": 5},
        {"prompt": 5},
        {"prompt": b"a"},
        {"prompt": [None]},
        {"prompt": ["a", 5]},
        {"prompt": "\ud800"},
        {"input_ids": 5},
        {"input_ids": "x"},
        {"input_ids": [1.5]},
        {"input_ids": [True]},
        {"input_ids": [[1], 5]},
        {"input_ids": torch.zeros(3)},
        {"prompt": "a", "sampling_params": "x"},
        {"prompt": "a", "sampling_params": {1: 2}},
        {"prompt": "a", "sampling_params": [1]},
        {"prompt": "a", "sampling_params": ramify.SamplingParams(temperature=math.inf)},
        {"prompt": "a", "sampling_params": ramify.SamplingParams(logit_bias={5: math.nan})},
        {"prompt": "a", "sampling_params": ramify.SamplingParams(stop=5)},  # type: ignore[arg-type]
        {"prompt": "a", "return_logprob": "yes"},
        {"prompt": "a", "return_logprob": True, "logprob_start_len": "x"},
        {"prompt": "a", "return_logprob": True, "top_logprobs_num": [1, 2]},
        {"prompt": "a", "return_logprob": True, "token_ids_logprob": 5},
        {"prompt": "a", "priority": 10**40},
        {"prompt": "a", "extra_key": 5},
        {"prompt": "a", "image_data": "x.png"},
        {"prompt": "a", "lora_path": ["adapter"]},
        {"prompt": "a", "nonsense": 1},
    ],
    ids=str,
)
def test_bad_calls_say_so(engine: ramify.Engine, call: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadRequest) as error:
        engine.generate(**call)
    named = [name for name in call if name not in ("prompt", "input_ids", "sampling_params", "return_logprob")]
    assert error.value.param in (
        named
        or [
            "prompt",
            "input_ids",
            "sampling_params",
            "return_logprob",
            "temperature",
            "nope",
            "logit_bias[...]",
            "stop",
        ]
    )
    assert "Traceback" not in capfd.readouterr().err
    assert engine.generate(PROMPT, {"max_new_tokens": 1})["output_ids"]


def test_what_sglang_has_and_nobody_asked_for(folder: Path, engine: ramify.Engine) -> None:
    nothing = {"image_data": None, "video_data": [], "lora_path": [None], "return_hidden_states": False, "rid": None}
    assert engine.generate(PROMPT, GREEDY, **nothing)["text"] == engine.generate(PROMPT, GREEDY)["text"]
    with make(folder, log_level="critical", random_seed=None, lora_paths=None, quantization=None) as other:
        assert other.resolved.settings.model.random_seed == 0
    with pytest.raises(ramify.StartupError, match="no setting 'frob'"):
        make(folder, frob=None)


def test_arrays_and_tensors_of_ids(engine: ramify.Engine) -> None:
    ids = engine.tokenizer.encode(PROMPT)  # type: ignore[union-attr]
    reference = engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]
    for given in (np.array(ids), torch.tensor(ids), tuple(ids), list(np.array(ids))):
        assert engine.generate(input_ids=given, sampling_params=GREEDY)["output_ids"] == reference
    for given in (np.array([ids, ids]), torch.tensor([ids, ids]), [np.array(ids), torch.tensor(ids)]):
        answers = engine.generate(input_ids=given, sampling_params=GREEDY)
        assert [answer["output_ids"] for answer in answers] == [reference] * 2


def test_log_probabilities_for_each_prompt(engine: ramify.Engine) -> None:
    """A list has one entry for every prompt; None is the default."""
    params = {"temperature": 0, "max_new_tokens": 2}
    first, second, third = engine.generate(
        [PROMPT] * 3,
        params,
        return_logprob=[True, False, True],
        logprob_start_len=[0, None, -1],
        top_logprobs_num=[2, 0, None],
        token_ids_logprob=[None, None, [5, 6]],
    )
    alone = engine.generate(PROMPT, params, return_logprob=True, logprob_start_len=0, top_logprobs_num=2)
    assert "output_token_logprobs" not in second["meta_info"]
    for name in ("input_token_logprobs", "output_top_logprobs"):
        assert len(first["meta_info"][name]) == len(alone["meta_info"][name]) > 0
    assert third["meta_info"]["input_token_logprobs"] == []
    assert [[row[1] for row in rows] for rows in third["meta_info"]["output_token_ids_logprobs"]] == [[5, 6]] * 2


@pytest.mark.parametrize(
    "messages",
    [
        "hi",
        [],
        None,
        [{"foo": 1}],
        [5],
        [{"role": "user"}],
        [{"role": 1, "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": "\ud800"}],
    ],
    ids=str,
)
def test_bad_conversations_say_so(messages: Any) -> None:
    with ramify.Engine(load_format="none", chat_template=None) as engine, pytest.raises(BadRequest, match="messages"):
        engine.chat(messages)


def test_a_conversation_in_parts_is_one_of_text() -> None:
    with ramify.Engine(load_format="none") as engine:
        parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
        assert engine.render([{"role": "user", "content": parts}]) == engine.render(
            [{"role": "user", "content": "Hi there"}]
        )


def test_what_the_engine_tells_of_itself(folder: Path) -> None:
    with make(folder, api_key="secret", page_size=8) as engine:
        info, model = engine.get_server_info(), engine.get_model_info()
    assert "secret" not in str(info)
    assert not {"api_key", "admin_api_key"} & info.keys()
    assert info["page_size"] == 8
    assert {"internal_states", "max_req_input_len", "max_total_num_tokens", "status", "version"} <= info.keys()
    assert model["model_path"] == str(folder)
    assert model["architectures"] == ["LlamaForCausalLM"]
    assert model["is_generation"] is True


def test_a_small_pool_serves_what_fits(folder: Path) -> None:
    with make(folder, max_total_tokens=64) as engine:
        with pytest.raises(UserError, match="the server has 64"):
            engine.generate(input_ids=[5] * 100, sampling_params=GREEDY)
        answers = engine.generate([PROMPT] * 4, {"max_new_tokens": 30, "temperature": 0, "ignore_eos": True})
        assert [len(answer["output_ids"]) for answer in answers] == [30] * 4


def test_settings_are_checked(folder: Path) -> None:
    with pytest.raises(ramify.StartupError, match="no setting 'frob'"):
        ramify.Engine(str(folder), frob=1)
    with pytest.raises(ramify.StartupError, match="page_size"):
        ramify.Engine(str(folder), page_size="many")


def test_chat_needs_a_template(engine: ramify.Engine) -> None:
    with pytest.raises(BadRequest, match="chat template"):
        engine.chat([{"role": "user", "content": "hi"}])


def test_shutdown_twice_and_two_engines(folder: Path) -> None:
    first, second = make(folder), make(folder, page_size=4)
    assert first.generate(PROMPT, GREEDY)["text"] == second.generate(PROMPT, GREEDY)["text"]
    first.shutdown()
    first.shutdown()
    assert second.generate(PROMPT, GREEDY)["text"]
    second.shutdown()
    with pytest.raises(UserError):
        second.generate(PROMPT)


def test_a_progress_bar_on_long_work(engine: ramify.Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.generate([PROMPT] * 10, {"max_new_tokens": 3}, progress=True)
    assert "10/10" in capfd.readouterr().err


def test_dummy_weights_are_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    outputs = []
    for _ in range(2):
        with make(tmp_path, load_format="dummy", skip_tokenizer_init=True) as engine:
            outputs.append(engine.generate(input_ids=[5, 6, 7], sampling_params=GREEDY)["output_ids"])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("page_size", [1, 4, 8])
def test_small_pages_up_to_the_end_of_the_context(folder: Path, page_size: int) -> None:
    with make(folder, page_size=page_size, context_length=64) as engine:
        output = engine.generate(PROMPT, {"temperature": 0, "max_new_tokens": 58, "ignore_eos": True})
        meta = output["meta_info"]
        assert meta["prompt_tokens"] + meta["completion_tokens"] == 64


def test_preferred_parameters_count_where_a_call_says_nothing(folder: Path) -> None:
    with make(folder, preferred_sampling_params='{"max_new_tokens": 3, "temperature": 0}') as engine:
        assert len(engine.generate(PROMPT)["output_ids"]) == 3
        assert len(engine.generate(PROMPT, {"max_new_tokens": 5})["output_ids"]) == 5
        assert engine.generate(PROMPT, [{"sampling_seed": 1}])["text"] == engine.generate(PROMPT)["text"]
        assert engine.get_model_info()["preferred_sampling_params"]
