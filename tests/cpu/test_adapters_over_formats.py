"""Adapters over weights that others quantized, against what those mean with the adapter merged into them."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import check_greedy, engine, tokens_of
from lora import Made, make_adapter, make_words
from models import save
from quantizing import FORMATS, save_quantized
from test_adapters import COMPILED, STACKS, ask, check_alone, expected, logprobs
from test_gguf_models import ARCHITECTURES, converted, make_plain
from transformers import AutoModelForCausalLM, PreTrainedModel

import ramify
from assets import BUNDLED

DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapters_of(base: PreTrainedModel, folder: Path) -> list[Made]:
    return [make_adapter(base, folder, "all", 8, DENSE), make_adapter(base, folder, "some", 3, ["k_proj", "down_proj"])]


def told(
    served: ramify.Engine, made: list[Made], seed: int = 1
) -> tuple[list[list[int]], list[str | None], list[dict[str, Any]]]:
    rnd = random.Random(seed)
    names: list[str | None] = [None, *(each.name for each in made), made[0].name]
    prompts = [tokens_of(rnd, 40, 200) for _ in names]
    return prompts, names, ask(served, prompts, names)


def errors(answer: dict[str, Any], model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    """Of each log probability, relative to the largest."""
    reference = expected(model, prompt + answer["output_ids"])
    return (torch.tensor(logprobs(answer)) - reference).abs() / reference.abs().max()


@pytest.mark.parametrize(
    "name", ["awq", "gptq-4-asym-order-v2", "gptq-4-group-8", "ct-w4a16", "ct-w8a8", "fp8-block", "bnb-nf4"]
)
def test_quantized_checkpoints(name: str, tmp_path: Path) -> None:
    """Exact where the stored numbers are computed with; where inputs are rounded to int8, near to the merged model and
    far from the bare one.
    """
    how = FORMATS[name]
    base = save_quantized("llama-bias", tmp_path / "base", how)
    made = adapters_of(base, tmp_path)
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: each.merged for each in made}}
    with engine(tmp_path / "base", lora_paths={each.name: str(each.path) for each in made}) as served:
        prompts, names, answers = told(served, made)
        check_alone(served, names, prompts, answers)
    for prompt, adapter, answer in zip(prompts, names, answers, strict=True):
        if how.exact:
            check_greedy(references[adapter], prompt, answer["output_ids"])
            assert errors(answer, references[adapter], prompt).max() < 1e-4
        else:
            near = errors(answer, references[adapter], prompt).median()
            assert near < 0.05
            if adapter is not None:
                assert errors(answer, base, prompt).median() > 2 * near


@pytest.mark.parametrize("family", ["llama2", "qwen3", "qwen2.5-tied", "gemma2"])
def test_gguf(family: str, tmp_path: Path) -> None:
    """Files have the rows of some weights in another order; adapters have that of the model they were trained over.
    With tokens of their own as well.
    """
    base = make_plain(family).eval()
    file = converted(base, ARCHITECTURES[family], tmp_path / "model.gguf")
    base.save_pretrained(tmp_path / "base")
    words = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    made = [*adapters_of(base, tmp_path), make_words(base, tmp_path / "base", tmp_path, "words", 4, **words)]
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: each.merged for each in made}}
    with engine(file, lora_paths={each.name: str(each.path) for each in made}) as served:
        prompts, names, answers = told(served, made)
    for prompt, adapter, answer in zip(prompts, names, answers, strict=True):
        check_greedy(references[adapter], prompt, answer["output_ids"])
        assert errors(answer, references[adapter], prompt).max() < 1e-4


@pytest.mark.parametrize("quantization", ["w8a8", "int4"])
def test_experts_that_are_quantized_when_loaded(quantization: str, tmp_path: Path) -> None:
    """Near to what transformers has merged, in most positions: some tokens come to other experts."""
    base = save("qwen3-moe", tmp_path / "base")
    made = [
        make_adapter(base, tmp_path, "experts", 3, ["q_proj"], target_parameters=STACKS),
        make_adapter(base, tmp_path, "down", 5, ["o_proj"], target_parameters=STACKS[1:]),
    ]
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: each.merged for each in made}}
    paths = {each.name: str(each.path) for each in made}
    with engine(tmp_path / "base", lora_paths=paths, quantization=quantization) as served:
        prompts, names, answers = told(served, made)
        check_alone(served, names, prompts, answers)
    for prompt, adapter, answer in zip(prompts, names, answers, strict=True):
        near = errors(answer, references[adapter], prompt).median()
        assert near < {"w8a8": 0.02, "int4": 0.15}[quantization], adapter
        if adapter is not None:
            assert errors(answer, base, prompt).median() > 1.5 * near, adapter


def test_everything_at_once(tmp_path: Path) -> None:
    """Mixed ranks, tokens of their own, shared prefixes, grammars, few slots, and a pool so small that requests are put
    back: all say what they say alone.
    """
    base = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype="float32").eval()
    made = [
        *(make_adapter(base, tmp_path, f"r{rank}", rank, DENSE) for rank in (1, 4, 16)),
        make_words(
            base, BUNDLED, tmp_path, "words", 3, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]
        ),
    ]
    paths = {each.name: str(each.path) for each in made}
    names: list[str | None] = [name for name in (None, *paths) for _ in range(3)]
    texts = [
        "You are the concierge of a small hotel by the sea. What time is breakfast" + end
        for end in ("?", "...", " here?")
    ]
    prompts = texts * 5
    free: dict[str, Any] = {"temperature": 0, "max_new_tokens": 90, "ignore_eos": True}
    kinds = [free, {**free, "regex": "[a-c]{60,80}"}, {**free, "ignore_eos": False, "regex": "Room (7|12|31), sir"}]
    params = [kinds[at % 3] for at in range(len(names))]
    settings: dict[str, Any] = {"dtype": "float32", "threads": 1, "lora_paths": paths}
    with ramify.Engine(
        **settings, max_loras_per_batch=3, max_total_tokens=256, schedule_conservativeness=0.05
    ) as tight:
        answers = tight.generate(prompts, params, lora_path=names)
        again = tight.generate(prompts, params, lora_path=names)
    assert sum(answer["meta_info"]["num_retractions"] for answer in answers) > 0
    assert any(answer["meta_info"]["cached_tokens"] > 0 for answer in again)
    with ramify.Engine(**settings, disable_radix_cache=True) as wide:
        alone = [wide.generate(*one[:2], lora_path=one[2]) for one in zip(prompts, params, names, strict=True)]
        for prompt, name, said in zip(prompts[::3], names[::3], alone[::3], strict=True):
            model = base if name is None else next(each.merged for each in made if each.name == name)
            check_greedy(model, wide.tokenizer.encode(prompt), said["output_ids"])  # type: ignore[union-attr]
    for at, answer in enumerate(alone):
        if at % 3 == 1:
            assert re.fullmatch("[a-c]{60,80}", answer["text"])
        elif at % 3 == 2:
            assert re.fullmatch("Room (7|12|31), sir", answer["text"])
        if COMPILED:
            assert answer["output_ids"] == answers[at]["output_ids"] == again[at]["output_ids"], names[at]
