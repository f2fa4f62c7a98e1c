"""Models whose weights are quantized when they are loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import all_logits
from models import reference_logits, save

import ramify
from assets import BUNDLED
from ramify.config.read import overlay
from ramify.config.settings import Settings
from ramify.engine.assemble import make_runner
from ramify.engine.build import prepare
from ramify.layers.build import Build
from ramify.memory.kv import KVPool
from ramify.models.load import build_model, load_weights
from ramify.ops.platform import make_platform
from ramify.ops.reference import fp8, int8
from ramify.quant.choose import schemes_of
from ramify.worker.runner import Runner

QUANTIZATIONS = ("w8a8", "int4")
quantizations = pytest.mark.parametrize("quantization", QUANTIZATIONS)
GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
PROMPT = "Once upon a time there was a little"


def runner_of(folder: Path, **asked: Any) -> tuple[Runner, int]:
    """A loaded model and the bytes that were planned for its weights."""
    settings = {"model_path": str(folder), "skip_tokenizer_init": True, "max_total_tokens": 512, "threads": 1, **asked}
    resolved = prepare(overlay(Settings(), settings, "test"))
    platform = make_platform(resolved.device, resolved.threads, resolved.dtype, resolved.linears)
    platform.prepare_thread()
    return make_runner(resolved, platform), resolved.memory.weights


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramify.ops.cpu.library.load", lambda: None)
    monkeypatch.setattr("ramify.engine.build.instruction_set", lambda: None)


def log_probability(folder: Path, tokens: list[int], **settings: Any) -> list[float]:
    with ramify.Engine(str(folder), skip_tokenizer_init=True, max_total_tokens=512, **settings) as engine:
        answer = engine.generate(
            input_ids=tokens, sampling_params={**GREEDY, "max_new_tokens": 1}, return_logprob=True, logprob_start_len=0
        )
    return [entry[0] for entry in answer["meta_info"]["input_token_logprobs"][1:]]


@quantizations
@pytest.mark.parametrize("family", ["llama-bias", "qwen2.5-tied", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_checkpoint_of_every_family(quantization: str, family: str, dtype: str, tmp_path: Path) -> None:
    """Random weights are the worst there is to quantize: the log probabilities are near and not the same."""
    model = save(family, tmp_path)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    tokens = list(range(3, 60))
    logits = reference_logits(model.float(), tokens).log_softmax(-1)
    expected = logits[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    found = torch.tensor(log_probability(tmp_path, tokens, quantization=quantization))
    difference = (found - expected).abs()
    mean, largest = {"w8a8": (0.1, 0.6), "int4": (0.5, 2.5)}[quantization]
    assert 1e-6 < difference.mean() < mean
    assert difference.max() < largest


@quantizations
def test_the_bundled_model_says_what_it_said(quantization: str) -> None:
    said = []
    for asked in (None, quantization):
        with ramify.Engine(quantization=asked, max_total_tokens=512) as engine:
            info = engine.get_server_info()
            assert info["quantization"] == (asked or "none")
            said.append(engine.generate(PROMPT, GREEDY)["text"])
    assert said[0] == said[1]


@quantizations
def test_without_compiled_kernels_the_reference_computes(
    quantization: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ramify.Engine(quantization=quantization, max_total_tokens=512) as engine:
        said = engine.generate(PROMPT, GREEDY)["text"]
    assert "reference" not in caplog.text
    without_kernels(monkeypatch)
    with caplog.at_level(logging.WARNING), ramify.Engine(quantization=quantization, max_total_tokens=512) as engine:
        assert engine.get_server_info()["linear_backend"] == "reference"
        assert engine.generate(PROMPT, GREEDY)["text"] == said
    assert f"{quantization} is computed by its reference" in caplog.text


@quantizations
def test_weights_take_what_was_planned(quantization: str) -> None:
    runner, planned = runner_of(BUNDLED, quantization=quantization)
    stored = sum(parameter.nbytes for parameter in runner.model.parameters())  # type: ignore[attr-defined]
    assert stored == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize("asked", ["auto", "fp32", "int8"])
def test_pages_take_what_was_planned(asked: str) -> None:
    """And two that are never given out: page 0, and that for what need not be kept."""
    settings = {"kv_cache_dtype": asked, "max_total_tokens": 512, "page_size": 16, "dtype": "bfloat16"}
    resolved = prepare(overlay(Settings(), settings, "test"))
    runner, _ = runner_of(BUNDLED, **settings)
    assert runner.pool.bytes == resolved.memory.pool // resolved.pages * (resolved.pages + 2)


def test_pages_of_int8_are_copied_and_wiped_with_their_scales() -> None:
    pool = KVPool(2, 6, 3, 4, 32, torch.int8, torch.device("cpu"))
    written = int8.store(torch.randn(3, 4, 32))
    for layer in range(2):
        for part in pool.layer(layer):
            part[1] = written
    pool.copy(torch.tensor([1]), torch.tensor([5]))
    pool.wipe(1, 2, torch.tensor([], dtype=torch.int64))
    for layer in range(2):
        for part in pool.layer(layer):
            assert torch.equal(part[5], written)
            assert torch.equal(part[1, :, :2], written[:, :2])
            assert (int8.from_pool(part[1, :, 2:], 32, torch.float32) == 0).all()


def test_pages_of_e4m3_are_copied_and_wiped() -> None:
    """Latents too, of which the values are a part of the keys."""
    for shared in (None, 16):
        pool = KVPool(2, 6, 3, 4, 32, fp8.KIND, torch.device("cpu"), shared)
        written = fp8.cast(torch.randn(3, 4, 32))
        assert pool.bytes == 2 * 8 * 3 * 4 * 32 * (2 if shared is None else 1)
        keys, values = pool.layer(1)
        keys[1] = written
        assert values.shape[3] == (shared or 32)
        pool.copy(torch.tensor([1]), torch.tensor([5]))
        pool.copy(torch.tensor([1]), torch.tensor([3]))
        pool.wipe(1, 2, torch.tensor([3]))
        assert torch.equal(keys[5].float(), written.float())
        assert torch.equal(keys[1, :, :2].float(), written[:, :2].float())
        assert not keys[1, :, 2:].float().any()
        assert not keys[3].float().any()


def test_the_reference_of_int8_pages_says_what_the_kernels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for _ in range(2):
        with ramify.Engine(kv_cache_dtype="int8", max_total_tokens=512, dtype="float32") as engine:
            assert engine.get_server_info()["kv_cache_dtype"] == "int8"
            said.append(engine.generate(PROMPT, GREEDY)["text"])
        without_kernels(monkeypatch)
    assert said[0] == said[1]


@quantizations
def test_the_model_never_stands_in_memory_twice(quantization: str) -> None:
    """At every moment of loading: what is packed already, and the layers of which some tensors are still to come."""
    resolved = prepare(overlay(Settings(), {"quantization": quantization, "dtype": "bfloat16"}, "test"))
    platform = make_platform("cpu", 1, "bfloat16")
    schemes = schemes_of(quantization, platform.kernels)
    build = Build(platform.kernels, None, *schemes, torch.bfloat16, platform.device, 512)  # type: ignore[arg-type]
    model = build_model(build, resolved.model)
    held: list[int] = []

    def look(done: int, tensors: int) -> None:
        held.append(sum(p.nbytes for p in model.parameters() if not p.is_meta))

    load_weights(model, resolved.folder, resolved.model, look)
    largest = 2 * resolved.model.vocab * resolved.model.hidden
    assert max(held) <= held[-1] + largest
    assert held[0] <= largest


@quantizations
@pytest.mark.parametrize("family", ["mixtral", "granite-moe", "deepseek-v3", "gpt-oss"])
def test_experts(quantization: str, family: str, tmp_path: Path) -> None:
    """One by one, in few bits as well; what is near in most positions is right, for some tokens choose others."""
    model = save(family, tmp_path)
    tokens = list(range(3, 60))
    runner, _ = runner_of(tmp_path, quantization=quantization, dtype="float32")
    stored = sum(parameter.nbytes for parameter in runner.model.parameters())  # type: ignore[attr-defined]
    plain = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert stored < plain * {"w8a8": 0.5, "int4": 0.45}[quantization]
    found, reference = all_logits(runner, tokens, [40, 17]), reference_logits(model, tokens)
    error = ((found - reference).abs().amax(1) / reference.abs().amax(1)).median()
    assert 1e-6 < error < {"w8a8": 0.1, "int4": 0.7}[quantization]


def test_experts_that_decode(tmp_path: Path) -> None:
    """Which experts have tokens is seen in every step: such steps are not recorded."""
    save("mixtral", tmp_path)
    asked = {**GREEDY, "max_new_tokens": 16}
    with ramify.Engine(str(tmp_path), skip_tokenizer_init=True, max_total_tokens=512, quantization="w8a8") as engine:
        together = engine.generate(input_ids=[[5, 6, 7], [9, 8, 7, 6]], sampling_params=asked)
        alone = [engine.generate(input_ids=ids, sampling_params=asked) for ids in ([5, 6, 7], [9, 8, 7, 6])]
    assert [one["output_ids"] for one in together] == [one["output_ids"] for one in alone]
