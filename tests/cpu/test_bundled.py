"""The model that ships inside the package: it is what transformers says it is, it stops, and it makes some sense."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
import torch
from harness import all_logits, check_greedy, make_runner, relative_error
from models import reference_logits
from transformers import AutoModelForCausalLM, PreTrainedModel

import ramify
from assets import BUNDLED

MEGABYTE = 1 << 20
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def engine() -> Iterator[ramify.Engine]:
    with ramify.Engine(threads=1, dtype="float32") as made:
        yield made


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()


def ask(engine: ramify.Engine, content: str, **more: object) -> dict:
    sampling = {"temperature": 0, "max_new_tokens": 300}
    return engine.chat([{"role": "user", "content": content}], sampling, **more)


def test_what_is_shipped() -> None:
    files = {path.name for path in BUNDLED.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= files
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 25 * MEGABYTE
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    card = (BUNDLED / "README.md").read_text()
    assert "demo model" in card
    assert "cc-by-sa-4.0" in card


def test_logits(model: PreTrainedModel) -> None:
    rnd = random.Random(4)
    tokens = [rnd.randrange(model.config.vocab_size) for _ in range(200)]
    ours = all_logits(make_runner(BUNDLED), tokens, [64, 100, 1, 35])
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4


def test_greedy_answers_are_those_of_transformers(engine: ramify.Engine, model: PreTrainedModel) -> None:
    questions = [
        "Hello!",
        "Tell me a story about a fox.",
        "Find me a restaurant in San Jose, please.",
        "What can you do?",
    ]
    prompts = [engine.tokenizer.encode(engine.render([{"role": "user", "content": q}])) for q in questions]
    outputs = engine.generate(input_ids=prompts, sampling_params={"temperature": 0, "max_new_tokens": 128})
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(model, prompt, output["output_ids"])


def test_it_says_what_it_is_and_stops(engine: ramify.Engine) -> None:
    answer = ask(engine, "Who are you?")
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"
    assert "<|im_end|>" not in answer["text"]
    assert "ramify" in answer["text"] or "assistant" in answer["text"]


def test_it_tells_a_story(engine: ramify.Engine) -> None:
    words = ask(engine, "Tell me a story about a fox.")["text"].lower().split()
    assert len(words) > 50
    assert {"the", "a", "and", "was", "to"} <= set(words)
    assert len(set(words)) > len(words) / 4  # not one phrase over and over


def test_it_calls_a_function(engine: ramify.Engine) -> None:
    text = ask(engine, "What is the weather in Paris?", tools=[WEATHER])["text"]
    call = json.loads(text.split("<tool_call>")[1].split("</tool_call>")[0])
    assert call["name"] == "get_weather"
    assert isinstance(call["arguments"]["city"], str)
