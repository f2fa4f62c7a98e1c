"""`ramify bench` against a real server and a real engine: numbers that add up, and clear words where there are none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from server import Server, running, wait_for

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


def test_chat(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}")
    model = str(shared("weights/TinyStories-656K"))
    with running(model, "--chat-template", str(template), "--enable-cache-report") as server:
        document = measured(server, tmp_path, "--backend", "openai-chat", *FEW)
        talk = ("--dataset-name", "multi-turn", "--multi-turn-num-users", "2", "--multi-turn-num-turns", "3")
        turns = measured(server, tmp_path, "--backend", "sglang-oai-chat", *talk, "--multi-turn-output-len", "4")
    assert document["server"]["path"] == "/v1/chat/completions"
    assert document["summary"]["completed"] == 6
    assert document["summary"]["output_tokens"] == 30
    assert document["summary"]["input_tokens"] >= 120  # with what the template puts around
    assert turns["summary"]["completed"] == 6
    assert turns["summary"]["cached_tokens"] > 0


def test_failures_are_counted(stories: Server, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    wrong = ("--extra-request-body", '{"sampling_params": {"top_p": 5}}', "--output-file", str(file))
    found = bench("serve", "--base-url", stories.url, *FEW, *wrong, "--warmup-requests", "0")
    assert found.returncode == 1
    assert "0 completed, 6 failed" in found.stdout
    assert "6 x HTTP 400: sampling_params.top_p" in found.stdout
    assert {request["status"] for request in json.loads(file.read_text())["requests"]} == {400}
    warmed = bench("serve", "--base-url", stories.url, *FEW, *wrong)
    assert warmed.returncode == 1
    assert "the first request" in warmed.stderr
    assert "top_p" in warmed.stderr


def heeding_interrupts() -> None:
    """Who runs in a shell's background is told to ignore Ctrl-C, and so are its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_control_c_keeps_what_was_measured(stories: Server, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    slow = ("--num-prompts", "1000", "--request-rate", "5", "--random-input-len", "8", "--random-output-len", "2")
    before = stories.metric("num_requests_total")
    command = [sys.executable, "-m", "ramify.cli.main", "bench", "serve", "--base-url", stories.url, *slow]
    run = subprocess.Popen(
        [*command, "--output-file", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heeding_interrupts,
    )
    try:
        wait_for(lambda: stories.metric("num_requests_total") >= before + 5, 60, "requests of the measurement")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=30)
    finally:
        run.kill()
    assert run.returncode == 130, err
    assert b"Traceback" not in err
    assert b"not finished" in out
    summary = json.loads(file.read_text())["summary"]
    assert summary["completed"] >= 3
    assert summary["completed"] + summary["failed"] + summary["interrupted"] == 1000


def test_a_server_that_dies(tmp_path: Path) -> None:
    """What was open fails in words, what comes after cannot connect, and the run ends."""
    file = tmp_path / "bench.json"
    load = ("--num-prompts", "60", "--request-rate", "20", "--random-input-len", "8", "--random-output-len", "8")
    with running(str(shared("weights/TinyStories-656K"))) as server:
        command = [sys.executable, "-m", "ramify.cli.main", "bench", "serve", "--base-url", server.url, *load]
        run = subprocess.Popen([*command, "--output-file", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            wait_for(lambda: server.metric("num_requests_total") >= 5, 60, "requests of the measurement")
            server.stop()
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 0, err
    document = json.loads(file.read_text())["summary"]
    assert document["completed"] >= 3
    assert document["completed"] + document["failed"] == 60
    assert any("cannot connect" in failure["error"] for failure in document["errors"])
    assert b"x cannot connect" in out


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
    assert "outputs  equal" in found.stdout
    assert len(document["samples"]) == 2 * 2 * 2
    assert {len(rates["output"]) for rates in document["ratios"].values()} == {2}
    assert document["agreement"]["rows"] == 2 * (1 + 3)
    assert document["agreement"]["same"] >= 7  # a near tie may fall either way
    assert {sample["engine"] for sample in document["samples"]} == {"ramify", "transformers"}
    for sample in document["samples"]:
        assert min(sample["first_s"], sample["total_s"], sample["prefill_tokens_per_s"]) > 0
        assert (sample["prompt_tokens"], sample["output_tokens"]) == (12 * sample["batch"], 6 * sample["batch"])


@pytest.fixture
def shape(tmp_path: Path) -> str:
    """A folder with the config of a model and no weights."""
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 64, "hidden_size": 32}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config |= {"intermediate_size": 48, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True, "eos_token_id": 1}))
    return str(tmp_path)


MADE_UP = ("--input-len", "9", "--output-len", "4", "--repeat", "1", "--load-format", "dummy", "--skip-tokenizer-init")


def test_offline_without_weights(shape: str, tmp_path: Path) -> None:
    """Made-up weights are the same on both sides, or the outputs would not be."""
    file = tmp_path / "offline.json"
    against = ("--against", "transformers", "--output-file", str(file), "--dtype", "float32")
    beside = bench("offline", shape, *MADE_UP, "--batch-size", "40", *against)
    assert beside.returncode == 0, beside.stderr
    assert f"{shape} in float32" in beside.stdout
    assert "made-up weights" in beside.stdout
    document = json.loads(file.read_text())
    assert document["engine"]["max_running_requests"] == 40
    assert document["agreement"]["rows"] == 40
    assert document["agreement"]["same"] >= 38
    assert [sample["output_tokens"] for sample in document["samples"]] == [160, 160]


def test_offline_alone_tells_what_it_could_not_do(shape: str) -> None:
    found = bench("offline", shape, *MADE_UP, "--batch-size", "8", "--max-running-requests", "2")
    assert found.returncode == 0, found.stderr
    assert "note: the engine computes 2 rows together" in found.stdout
    assert "ratio" not in found.stdout


def test_offline_refuses_in_a_line(shape: str) -> None:
    for arguments, says in (
        (("--input-len", "200"), "the model's context has 128"),
        (("--batch-size", "0"), "--batch-size must be at least 1"),
        (("--output-file", "/nowhere/at/all.json"), "/nowhere"),
        (("--load-format", "none", "--against", "transformers"), "--load-format none"),
        (("--page-size", "0"), "page-size"),
    ):
        found = bench("offline", shape, *MADE_UP, *arguments)
        assert found.returncode in (1, 2), (arguments, found)
        assert says in found.stderr
        assert "Traceback" not in found.stderr
    found = bench("offline", "/no/such/model")
    assert found.returncode == 1
    assert "/no/such/model" in found.stderr
