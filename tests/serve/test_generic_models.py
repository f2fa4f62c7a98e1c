"""A model that no family computes, served: transformers' code behind the same routes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from server import Server, refused_to_start, running
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import ramify

BUNDLED = Path(ramify.__file__).parent / "bundled" / "concierge"
WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


def save(folder: Path) -> GPTNeoXForCausalLM:
    """A tiny random model with the words of the bundled one."""
    known = json.loads((BUNDLED / "config.json").read_text())
    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=known["vocab_size"],
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=known.get("bos_token_id"),
        eos_token_id=known["eos_token_id"],
    )
    model = GPTNeoXForCausalLM(config).eval()
    model.save_pretrained(folder)
    for name in WORDS:
        shutil.copy(BUNDLED / name, folder)
    return model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, GPTNeoXForCausalLM]]:
    folder = tmp_path_factory.mktemp("pythia")
    model = save(folder)
    with running(str(folder), "--served-model-name", "tiny", "--dtype", "float32") as server:
        yield server, model


def test_it_generates_what_transformers_would(served: tuple[Server, GPTNeoXForCausalLM]) -> None:
    server, model = served
    ids = [5, 9, 17, 30, 44]
    answer = server.post("/generate", {"input_ids": ids, "sampling_params": GREEDY})
    wanted = model.generate(
        torch.tensor([ids]), max_new_tokens=12, min_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert answer["output_ids"] == wanted[0, len(ids) :].tolist()


def test_it_chats_and_streams_and_finds_prefixes(served: tuple[Server, GPTNeoXForCausalLM]) -> None:
    server, _ = served
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me a story about a fox. " * 8}],
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = server.post("/v1/chat/completions", asked)["choices"][0]["message"]["content"]
    before = server.metric("cached_tokens_total")
    events = server.events("/v1/chat/completions", {**asked, "stream": True})
    parts = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    assert "".join(parts) == whole
    assert server.metric("cached_tokens_total") > before


def test_grammars_hold(served: tuple[Server, GPTNeoXForCausalLM]) -> None:
    server, _ = served
    asked = {"text": "A fox", "sampling_params": {"max_new_tokens": 8, "regex": "(red|blue) fox"}}
    assert server.post("/generate", asked)["text"] in ("red fox", "blue fox")


def test_it_says_whose_code_it_is(served: tuple[Server, GPTNeoXForCausalLM]) -> None:
    server, _ = served
    assert "no native code computes this GPTNeoXForCausalLM" in server.log


def test_explain(tmp_path: Path) -> None:
    save(tmp_path)
    command = [sys.executable, "-m", "ramify.cli.main", "explain", str(tmp_path)]
    said = " ".join(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split())
    assert "model_impl transformers no native code computes this GPTNeoXForCausalLM" in said
    assert "batch_invariance no what transformers' code computes" in said


def test_what_cannot_be_served(tmp_path: Path) -> None:
    save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("gpt_neox", "bloom").replace("GPTNeoX", "Bloom"))
    assert "no attention interface" in refused_to_start(str(tmp_path))
