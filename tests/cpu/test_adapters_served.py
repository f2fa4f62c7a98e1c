"""Adapters under what an engine does with requests: shared prefixes, preemption, grammars, recorded steps, quantized
weights; adapters that come and go under load, and a thousand times.
"""

from __future__ import annotations

import gc
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from harness import check_greedy, engine, relative_error, tokens_of
from lora import Made, make_adapter
from models import save
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import ramify
from assets import BUNDLED
from ramify.adapters.registry import Registry
from ramify.adapters.table import AdapterTable
from ramify.core.errors import BadRequest, NotFound, StartupError, UserError
from ramify.ops.cpu.library import load

COMPILED = load() is not None
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GREEDY = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}


class World:
    """A base model with three adapters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "base"
        self.base = save("qwen3", self.folder)
        self.made = {
            name: make_adapter(self.base, folder, name, rank, targets)
            for name, rank, targets in (("a", 8, TARGETS), ("b", 3, ["q_proj", "down_proj"]), ("c", 16, ["v_proj"]))
        }
        self.paths = {name: str(made.path) for name, made in self.made.items()}

    def reference(self, name: str | None) -> PreTrainedModel:
        return self.base if name is None else self.made[name].merged


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("adapters"))


NAMES: list[str | None] = [None, "a", "b", "c"]


def test_prefixes_are_an_adapters_own(world: World) -> None:
    """The same prompt under each, twice: the second time all of it is found, and what it says is the same."""
    prompt = tokens_of(random.Random(2), 60, 200)
    with engine(world.folder, lora_paths=world.paths) as served:
        first = [served.generate(input_ids=prompt, sampling_params=GREEDY, lora_path=name) for name in NAMES]
        again = [served.generate(input_ids=prompt, sampling_params=GREEDY, lora_path=name) for name in NAMES]
        for name, one, two in zip(NAMES, first, again, strict=True):
            assert one["meta_info"]["cached_tokens"] == 0
            assert two["meta_info"]["cached_tokens"] == len(prompt) - 1
            assert one["output_ids"] == two["output_ids"]
            check_greedy(world.reference(name), prompt, one["output_ids"])
        served.unload_lora_adapter("a")
        served.load_lora_adapter("a", world.paths["b"])  # another one under the same name
        swapped = served.generate(input_ids=prompt, sampling_params=GREEDY, lora_path="a")
        assert swapped["meta_info"]["cached_tokens"] == 0
        assert swapped["output_ids"] == first[2]["output_ids"]


def test_preempted(world: World) -> None:
    rnd = random.Random(4)
    prompts = [tokens_of(rnd, rnd.randrange(30, 90), 200) for _ in range(8)]
    names = [NAMES[at % 4] for at in range(8)]
    with engine(world.folder, lora_paths=world.paths, max_total_tokens=480, max_loras_per_batch=2) as tight:
        answers = tight.generate(input_ids=prompts, sampling_params={**GREEDY, "max_new_tokens": 48}, lora_path=names)
    assert sum(answer["meta_info"]["num_retractions"] for answer in answers) > 0
    for prompt, name, answer in zip(prompts, names, answers, strict=True):
        check_greedy(world.reference(name), prompt, answer["output_ids"])


@pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled in this installation")
def test_steps_are_recorded(world: World) -> None:
    """With and without adapters, and whoever stands in which slot: three adapters in two slots, one row each."""
    rnd = random.Random(5)
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=2) as served:
        forward = served._loop.executor.runner._hidden  # type: ignore[attr-defined]
        for name in (*NAMES, *NAMES):
            prompt = tokens_of(rnd, 20, 200)
            said = served.generate(input_ids=prompt, sampling_params=GREEDY, lora_path=name)["output_ids"]
            check_greedy(world.reference(name), prompt, said)
        assert forward._recorder is not None
        assert set(forward._recorded) == {(1, False), (1, True)}


def answers_of(served: ramify.Engine, prompts: list[list[int]], names: list[str | None]) -> list[Any]:
    found = served.generate(input_ids=prompts, sampling_params=GREEDY, lora_path=names, return_logprob=True)
    return [(one["output_ids"], [value for value, *_ in one["meta_info"]["output_token_logprobs"]]) for one in found]


@pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled in this installation")
@pytest.mark.parametrize("how", [{}, {"quantization": "w8a8"}, {"quantization": "int4"}], ids=["bf16", "w8a8", "int4"])
def test_over_other_weights(world: World, how: dict[str, Any]) -> None:
    """In bfloat16 and quantized: rows without an adapter are as if there were none, and those with one as alone. An
    adapter that was merged before its base was quantized says nearly the same.
    """
    rnd = random.Random(6)
    prompts = [tokens_of(rnd, 30, 200) for _ in NAMES]
    settings: dict[str, Any] = {"dtype": "bfloat16", "threads": 1, "skip_tokenizer_init": True, **how}
    with ramify.Engine(str(world.folder), **settings) as bare:
        (without,) = answers_of(bare, prompts[:1], [None])
    with ramify.Engine(str(world.folder), lora_paths=world.paths, **settings) as served:
        together = answers_of(served, prompts, NAMES)
        assert together[0] == without
        served.flush_cache()
        for prompt, name, answer in zip(prompts, NAMES, together, strict=True):
            assert answers_of(served, [prompt], [name]) == [answer]


def test_nothing_is_nothing(world: World, tmp_path: Path) -> None:
    """An adapter whose second factor is zero, as before its training, changes no bit."""
    made = tmp_path / "zero"
    made.mkdir()
    source = Path(world.paths["a"])
    weights = load_file(source / "adapter_model.safetensors")
    save_file({n: w * 0 if "lora_B" in n else w for n, w in weights.items()}, made / "adapter_model.safetensors")
    (made / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    prompts = [tokens_of(random.Random(7), 30, 200)] * 2
    with engine(world.folder, lora_paths={"zero": str(made)}) as served:
        zero, none = answers_of(served, prompts, ["zero", None])
        assert zero == none


def test_embeddings(world: World, tmp_path: Path) -> None:
    """A decoder that gives embeddings, adapted; and by an adapter whose base was the backbone alone."""
    source, bare = Path(world.paths["a"]), tmp_path / "bare"
    bare.mkdir()
    weights = load_file(source / "adapter_model.safetensors")
    save_file(
        {name.replace("base_model.model.model.", "base_model.model."): one for name, one in weights.items()},
        bare / "adapter_model.safetensors",
    )
    (bare / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    prompt = tokens_of(random.Random(9), 40, 200)
    names: list[str | None] = [None, "a", "bare", "c"]
    with engine(world.folder, is_embedding=True, lora_paths={**world.paths, "bare": str(bare)}) as served:
        found = served.encode(input_ids=[prompt] * 4, lora_path=names)
    for name, answer in zip(names, found, strict=True):
        model = world.reference("a" if name == "bare" else name)
        with torch.inference_mode():
            expected = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        vector = torch.tensor(answer["embedding"])
        assert relative_error(vector / vector.norm(), expected / expected.norm()) < 1e-4, name


# -- the demo model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Made]:
    base = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype="float32").eval()
    return base, make_adapter(base, tmp_path_factory.mktemp("bundled"), "mine", 4, TARGETS)


@pytest.fixture(scope="module")
def concierge(bundled: tuple[PreTrainedModel, Made]) -> Iterator[ramify.Engine]:
    with ramify.Engine(dtype="float32", threads=1, lora_paths={"mine": str(bundled[1].path)}) as served:
        yield served


def test_bundled(bundled: tuple[PreTrainedModel, Made], concierge: ramify.Engine) -> None:
    base, made = bundled
    text = "What time does the restaurant open?"
    for name, model in (("mine", made.merged), (None, base)):
        ids = concierge.tokenizer.encode(text)  # type: ignore[union-attr]
        check_greedy(
            model, ids, concierge.generate(input_ids=ids, sampling_params=GREEDY, lora_path=name)["output_ids"]
        )


def test_grammar(concierge: ramify.Engine) -> None:
    """Adapters do not get past a grammar, beside rows without one."""
    schema: dict[str, Any] = {"type": "object", "properties": {"room": {"enum": [7, 12, 31]}}, "required": ["room"]}
    schema["additionalProperties"] = False
    params = [
        {"max_new_tokens": 200, "temperature": 0, "json_schema": json.dumps(schema)},
        {"max_new_tokens": 12, "temperature": 0, "regex": "[a-c]{4,8}"},
        {"max_new_tokens": 12, "temperature": 0},
        {"max_new_tokens": 12, "temperature": 0, "regex": "[0-9]{3}"},
    ]
    answers = concierge.generate(["Which room?"] * 4, params, lora_path=["mine", "mine", "mine", None])
    assert json.loads(answers[0]["text"])["room"] in (7, 12, 31)
    assert re.fullmatch("[a-c]{4,8}", answers[1]["text"])
    assert re.fullmatch("[0-9]{3}", answers[3]["text"])


# -- coming and going --------------------------------------------------------------------------------------------------


def test_orders(world: World, tmp_path: Path) -> None:
    with engine(world.folder, enable_lora=True, max_lora_rank=16) as served:
        assert served.lora_adapters() == []
        record = served.load_lora_adapter("a", world.paths["a"])
        assert (record["name"], record["rank"], record["loaded"], record["pinned"]) == ("a", 8, True, False)
        assert [one["name"] for one in served.lora_adapters()] == ["a"]
        for wrong, says in (
            (("a", world.paths["a"]), "loaded already"),
            (("b:c", world.paths["b"]), "colon"),
            (("b", str(tmp_path / "nowhere")), "no adapter folder"),
        ):
            with pytest.raises(UserError, match=says):
                served.load_lora_adapter(*wrong)
        with pytest.raises(NotFound, match="loaded: a"):
            served.generate(input_ids=[5], sampling_params=GREEDY, lora_path="b")
        with pytest.raises(NotFound):
            served.unload_lora_adapter("b")
        served.unload_lora_adapter("a")
        assert served.lora_adapters() == []
        assert served.generate(input_ids=[5], sampling_params=GREEDY)["output_ids"]
    with engine(world.folder) as without:
        for ask in (
            lambda: without.generate(input_ids=[5], lora_path="a"),
            lambda: without.load_lora_adapter("a", world.paths["a"]),
        ):
            with pytest.raises(BadRequest, match="--enable-lora"):
                ask()
        assert without.lora_adapters() == []


def test_what_is_refused(world: World, tmp_path: Path) -> None:
    """With the module and what there is; the server goes on."""
    llama = save("llama2", tmp_path / "other")
    other = make_adapter(llama, tmp_path, "wide", 4, ["q_proj"])
    with engine(world.folder, enable_lora=True, max_lora_rank=8, lora_target_modules=["q_proj", "k_proj"]) as served:
        for path, says in (
            (world.paths["a"], r"mlp\.down_proj.*it adapts k_proj, q_proj"),
            (world.paths["c"], "has rank 16; the server takes up to 8"),
            (str(other.path), "of another model"),
        ):
            with pytest.raises(BadRequest, match=says):
                served.load_lora_adapter("x", path)
            assert served.lora_adapters() == []
        assert served.generate(input_ids=[5], sampling_params=GREEDY)["output_ids"]
    for settings, says in (
        ({"lora_target_modules": ["nope"], "enable_lora": True}, "nope cannot be adapted"),
        ({"lora_paths": {"a": str(tmp_path)}}, "adapter_config.json"),
        ({"lora_paths": world.paths, "max_lora_rank": 4}, "has rank 16"),
        ({"lora_paths": world.paths, "max_loaded_loras": 4}, "less than the 8"),
        ({"lora_paths": world.paths, "load_format": "none"}, "needs a model"),
    ):
        with pytest.raises(StartupError, match=says):
            engine(world.folder, **settings).shutdown()


def test_under_load(world: World) -> None:
    """Adapters that are loaded, named, evicted, unloaded while others run, in two slots and a memory of three."""
    rnd = random.Random(8)
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=2, max_loaded_loras=3) as served:
        wrong: list[str] = []

        def churn() -> None:
            for turn in range(12):
                served.load_lora_adapter(f"x{turn}", world.paths["b"])
                prompt = tokens_of(random.Random(turn), 10, 200)
                said = served.generate(input_ids=prompt, sampling_params=GREEDY, lora_path=f"x{turn}")["output_ids"]
                served.unload_lora_adapter(f"x{turn}")
                try:
                    check_greedy(world.reference("b"), prompt, said)
                except AssertionError as e:
                    wrong.append(str(e))

        churning = threading.Thread(target=churn)
        churning.start()
        while churning.is_alive():
            prompts = [tokens_of(rnd, 10, 200) for _ in range(6)]
            names = [rnd.choice(["a", "b", None]) for _ in prompts]
            for prompt, name, answer in zip(
                prompts,
                names,
                served.generate(input_ids=prompts, sampling_params=GREEDY, lora_path=names),
                strict=True,
            ):
                check_greedy(world.reference(name), prompt, answer["output_ids"])
        churning.join()
        assert not wrong


def test_a_thousand_times(world: World) -> None:
    """Loading, using and unloading leaves nothing behind: no memory, slots, ids, files or threads."""
    process = psutil.Process()
    with engine(world.folder, enable_lora=True) as served:
        registry, table = served._loop.scheduler.adapters, served._loop.executor.runner.adapters  # type: ignore[attr-defined]
        assert isinstance(registry, Registry)
        assert isinstance(table, AdapterTable)

        def turns(count: int) -> int:
            for turn in range(count):
                served.load_lora_adapter("x", world.paths["a"])
                if turn % 10 == 0:
                    served.generate(input_ids=[5, turn % 200], sampling_params={"max_new_tokens": 2}, lora_path="x")
                served.unload_lora_adapter("x")
            gc.collect()
            return process.memory_info().rss

        turns(200)
        files, threads = process.num_fds(), process.num_threads()
        before = turns(200)
        after = turns(600)
        assert (process.num_fds(), process.num_threads()) == (files, threads)
        size = sum(f.stat().st_size for f in Path(world.paths["a"]).iterdir())
        assert after - before < max(100 * size, 16 << 20), "memory grows"
        assert served.lora_adapters() == []
        served.flush_cache()  # in its turn behind what was dropped
        served._loop.executor.in_turn(lambda: None).result()  # type: ignore[attr-defined]
        assert table.held == []
        assert not any(registry._slots)
        assert not registry._leaving
