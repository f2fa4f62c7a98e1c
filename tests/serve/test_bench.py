"""`ramify bench` against a real server and a real engine: numbers that add up, and clear words where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from server import Server

from assets import shared

FEW = ("--num-prompts", "6", "--random-input-len", "20", "--random-output-len", "5")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ramify.cli.main", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def measured(server: Server, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "bench.json"
    found = bench("serve", "--base-url", server.url, *arguments, "--output-file", str(file))
    assert found.returncode == 0, found.stdout + found.stderr
    assert "TTFT" in found.stdout
    return json.loads(file.read_text())


@pytest.mark.parametrize("backend", ["auto", "native", "openai", "sglang-oai", "vllm"])
def test_every_backend_counts_the_same(stories: Server, tmp_path: Path, backend: str) -> None:
    document = measured(stories, tmp_path, "--backend", backend, *FEW, "--max-concurrency", "3")
    summary = document["summary"]
    assert (summary["completed"], summary["failed"]) == (6, 0)
    assert summary["output_tokens"] == 30
    assert summary["input_tokens"] == 120
    assert summary["peak_concurrency"] <= 3
    assert summary["ttft_ms"]["count"] == 6
    assert summary["ttft_ms"]["median"] <= summary["e2e_ms"]["median"]
    assert len(document["requests"]) == 6
    assert "api_key" not in json.dumps(document)


def test_open_loop_goodput_and_shared_prefixes(stories: Server, tmp_path: Path) -> None:
    dataset = ("--dataset-name", "generated-shared-prefix", "--gsp-num-groups", "2", "--gsp-prompts-per-group", "3")
    lengths = ("--gsp-system-prompt-len", "64", "--gsp-question-len", "8", "--gsp-output-len", "4")
    rate = ("--request-rate", "50", "--goodput", "ttft:60000", "e2el:60000", "--flush-cache")
    summary = measured(stories, tmp_path, *dataset, *lengths, *rate)["summary"]
    assert summary["completed"] == 6
    assert summary["goodput"]["share"] == 1.0
    assert summary["cached_tokens"] > 0


def test_conversations_grow(stories: Server, tmp_path: Path) -> None:
    asked = ("--dataset-name", "multi-turn", "--multi-turn-num-users", "2", "--multi-turn-num-turns", "3")
    lengths = ("--multi-turn-input-len", "8", "--multi-turn-output-len", "4")
    document = measured(stories, tmp_path, *asked, *lengths)
    assert document["summary"]["completed"] == 6


def test_a_file_of_conversations(stories: Server, tmp_path: Path) -> None:
    words = ("Once upon a time there was", "a little girl who had a dog")
    turns = zip(("human", "gpt"), words, strict=True)
    talk = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    file = tmp_path / "sharegpt.json"
    file.write_text(json.dumps([talk] * 3))
    arguments = ("--dataset-name", "sharegpt", "--dataset-path", str(file), "--num-prompts", "3")
    assert measured(stories, tmp_path, *arguments, "--sharegpt-output-len", "4")["summary"]["output_tokens"] == 12


def test_what_cannot_be_measured_is_said_in_a_line(stories: Server, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.json"
    garbage.write_text("{]")
    for arguments, says in (
        (("--base-url", "http://127.0.0.1:9", "--ready-timeout", "0.2"), "127.0.0.1:9"),
        (("--base-url", stories.url, "--dataset-name", "sharegpt"), "--dataset-path"),
        (("--base-url", stories.url, "--dataset-name", "sharegpt", "--dataset-path", str(garbage)), "garbage.json"),
        (("--base-url", stories.url, "--output-file", "/nowhere/at/all.json"), "/nowhere"),
        (("--base-url", stories.url, "--num-prompts", "0"), "num-prompts"),
        (("--base-url", stories.url, "--goodput", "ttft"), "goodput"),
    ):
        found = bench("serve", *arguments)
        assert found.returncode == 1, (arguments, found)
        assert says in found.stderr
        assert "Traceback" not in found.stderr
    assert bench("elsewhere").returncode == 2


def test_offline_beside_transformers(tmp_path: Path) -> None:
    file = tmp_path / "offline.json"
    lengths = ("--input-len", "12", "--output-len", "6", "--repeat", "2", "--batch-size", "1,3")
    model = str(shared("weights/TinyStories-656K"))
    found = bench("offline", model, *lengths, "--against", "transformers", "--output-file", str(file))
    assert found.returncode == 0, found.stderr
    assert "ratio" in found.stdout
    document = json.loads(file.read_text())
    assert len(document["samples"]) == 2 * 2 * 2
    assert {len(values) for rates in document["ratios"].values() for values in rates.values()} == {2}
    assert document["same_rows"] >= document["rows"] - 1  # a near tie may fall either way
    for sample in document["samples"]:
        assert 0 < sample["first_s"] < sample["total_s"]
        assert sample["output_tokens"] == 6 * sample["batch"]


def test_offline_without_weights(tmp_path: Path) -> None:
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 64, "hidden_size": 32}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config |= {"intermediate_size": 48, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True, "eos_token_id": 1}))
    lengths = ("--input-len", "9", "--output-len", "4", "--repeat", "1", "--batch-size", "2")
    arguments = (str(tmp_path), *lengths, "--load-format", "dummy", "--skip-tokenizer-init")
    alone, beside = bench("offline", *arguments), bench("offline", *arguments, "--against", "transformers")
    for found in (alone, beside):
        assert found.returncode == 0, found.stderr
    assert "ratio" in beside.stdout
    too_long = bench("offline", *arguments, "--input-len", "200")
    assert too_long.returncode == 1
    assert "context" in too_long.stderr
