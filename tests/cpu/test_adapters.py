"""Adapters against weights that PEFT merged: every target, mixed ranks, rows of several and of none together."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import check_greedy, engine, relative_error, tokens_of
from lora import make_adapter
from models import reference_logits, save
from transformers import PreTrainedModel

import ramify
from ramify.ops.cpu.library import load

COMPILED = load() is not None
NEW = 12
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
FAMILIES = {
    "llama-bias": DENSE,
    "qwen3": DENSE,
    "phi3": FUSED,
    "glm": [*ATTENTION, "gate_up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gemma2": DENSE,
    "command-r": DENSE,
    "mixtral": ATTENTION,
    "deepseek-v3": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"],
}
GREEDY = {"temperature": 0, "max_new_tokens": NEW, "ignore_eos": True}


class World:
    """A family with adapters: one of all targets, one of each target alone, of different ranks."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder, self.targets = folder / "base", FAMILIES[family]
        self.base = save(family, self.folder)
        names = {"all": self.targets, **{target: [target] for target in self.targets}}
        ranks = [8, 1, 3, 4, 5, 16, 7, 2]
        self.adapters = {
            name: make_adapter(self.base, folder, name, rank, targets)
            for (name, targets), rank in zip(names.items(), ranks, strict=False)
        }

    @property
    def paths(self) -> dict[str, str]:
        return {name: str(made.path) for name, made in self.adapters.items()}

    def reference(self, name: str | None) -> PreTrainedModel:
        return self.base if name is None else self.adapters[name].merged


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


def ask(with_: ramify.Engine, prompts: list[list[int]], names: list[str | None], **more: Any) -> list[dict[str, Any]]:
    return with_.generate(
        input_ids=prompts, sampling_params=GREEDY, lora_path=names, return_logprob=True, logprob_start_len=0, **more
    )


def logprobs(answer: dict[str, Any]) -> list[float]:
    meta = answer["meta_info"]
    return [value for value, *_ in meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]]


def expected(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    found = reference_logits(model, tokens[:-1]).log_softmax(-1)
    return found[torch.arange(len(tokens) - 1), tokens[1:]]


def test_exact(world: World) -> None:
    rnd = random.Random(1)
    vocab = world.base.config.vocab_size
    names: list[str | None] = [None, *world.adapters, None, "all"]
    prompts = [tokens_of(rnd, rnd.randrange(5, 50), vocab) for _ in names]
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=8) as made:
        answers = ask(made, prompts, names)
        for prompt, name, answer in zip(prompts, names, answers, strict=True):
            model, said = world.reference(name), answer["output_ids"]
            check_greedy(model, prompt, said)
            error = relative_error(torch.tensor(logprobs(answer)), expected(model, prompt + said))
            assert error < 1e-4, (name, error)
        differ = [
            a["output_ids"] != b["output_ids"] for a, b in zip(*_same_prompt(made, prompts[0], world), strict=True)
        ]
        assert any(differ), "no adapter changes anything"
        if COMPILED:  # the same bits as alone
            for prompt, name, answer in zip(prompts, names, answers, strict=True):
                (alone,) = ask(made, [prompt], [name], extra_key="alone")
                assert alone["output_ids"] == answer["output_ids"]
                assert logprobs(alone) == logprobs(answer), name


def _same_prompt(made: ramify.Engine, prompt: list[int], world: World) -> tuple[list[Any], list[Any]]:
    count = len(world.adapters)
    with_adapters = ask(made, [prompt] * count, list(world.adapters))
    return with_adapters, ask(made, [prompt] * count, [None] * count)
