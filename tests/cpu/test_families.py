"""Every family against transformers: logits at every position, and greedy text under everything a scheduler does.

A family is a row of `models.FAMILIES`.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
from harness import (
    GREEDY,
    NEW,
    all_logits,
    check_greedy,
    engine,
    make_runner,
    relative_error,
    scenarios,
    tokens_of,
)
from models import FAMILIES, make_config, reference_logits, save
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from assets import shared
from ramify.config.model import parse_config, read_config
from ramify.core.errors import StartupError
from ramify.models.preflight import checked_tensors
from ramify.models.registry import FAMILIES as ARCHITECTURES
from ramify.models.registry import family_of
from ramify.ops.cpu.library import load
from ramify.worker.runner import Runner

COMPILED = load() is not None
CAPPED = ("gemma2", "gpt-oss")  # what torch's fused attention cannot do


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save(request.param, folder)


@pytest.fixture(scope="module")
def stories() -> tuple[Path, PreTrainedModel]:
    """A real trained model."""
    folder = shared("weights/TinyStories-656K")
    return folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("attention", ["cpu", "torch_native", "reference"])
@pytest.mark.parametrize("chunks", [[150], [64, 1, 85], [7] * 21 + [3]], ids=["whole", "three", "by7"])
def test_logits(tiny: tuple[Path, PreTrainedModel], chunks: list[int], attention: str) -> None:
    folder, model = tiny
    if attention == "torch_native" and folder.name.startswith(CAPPED):
        with pytest.raises(StartupError, match="cannot serve"):
            make_runner(folder, attention_backend=attention)
        return
    if attention == "cpu" and not COMPILED:
        pytest.skip("the kernels are not compiled in this installation")
    tokens = tokens_of(random.Random(1), 150, model.config.vocab_size)
    ours = all_logits(make_runner(folder, attention_backend=attention), tokens, chunks)
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4


def test_a_checkpoint_saved_from_below_the_head(tmp_path: Path) -> None:
    """As GPT-2 is published: no prefix, and masks among the tensors."""
    model = save("gpt2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, tmp_path / "model.safetensors")
    tokens = tokens_of(random.Random(1), 50, model.config.vocab_size)
    assert relative_error(all_logits(make_runner(tmp_path), tokens, [50]), reference_logits(model, tokens)) < 1e-4


def test_an_embedding_under_its_old_name(tmp_path: Path) -> None:
    """As Mamba 2 was first published."""
    save("mamba2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert "backbone.embedding.weight" in checked_tensors(tmp_path, read_config(tmp_path))


def test_layers_that_guess_further_tokens_are_left_alone(tmp_path: Path) -> None:
    """Published checkpoints of DeepSeek V3 and GLM 4.5 have one behind the last."""
    save("deepseek-v3", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "model.layers.3.eh_proj.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    checked_tensors(tmp_path, read_config(tmp_path))


@pytest.mark.parametrize(("context", "factors"), [(60, "short"), (512, "long")])
def test_longrope_follows_the_context_that_is_served(tmp_path: Path, context: int, factors: str) -> None:
    """Not the length of a request: what is cached of its beginning has to stay right while it grows."""
    model = save("phi4-mini", tmp_path)
    tokens = tokens_of(random.Random(1), 50, model.config.vocab_size)
    ours = all_logits(make_runner(tmp_path, context_length=context), tokens, [50])
    close = relative_error(ours, reference_logits(model, tokens)) < 1e-4
    assert close == (factors == "short")  # of a text that is short, transformers takes the short ones


@pytest.mark.parametrize("name", ["gpt-oss", "deepseek-v3", "gpt2"])
def test_weights_from_nothing(tmp_path: Path, name: str) -> None:
    make_config(name).save_pretrained(tmp_path)
    ours = all_logits(make_runner(tmp_path, load_format="dummy"), list(range(3, 40)), [37])
    assert ours.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [{"topk_method": "greedy"}, {"scoring_func": "softmax"}, {"n_group": 3}, {"topk_group": 5}, {"topk_group": 0}],
    ids=str,
)
def test_ways_to_choose_experts_that_are_not_known(change: dict) -> None:
    raw = {**make_config("deepseek-v3").to_dict(), **change}
    with pytest.raises(StartupError, match=next(iter(change))):
        family_of(parse_config(raw)).layout(parse_config(raw))


def test_experts_in_mxfp4(tmp_path: Path) -> None:
    """As GPT-OSS is published; transformers unpacks the same bytes for the reference."""
    model, generator = save("gpt-oss", tmp_path), torch.Generator().manual_seed(3)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj")) and "experts" in name]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(121, 126, blocks.shape[:3], dtype=torch.uint8, generator=generator)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        model.get_parameter(name).data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = tokens_of(random.Random(1), 60, model.config.vocab_size)
    ours = all_logits(make_runner(tmp_path), tokens, [60])
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4


@pytest.mark.parametrize("name", ["olmo3", "gemma3", "gpt-oss"])
def test_windows_whose_pages_are_scarce(tmp_path: Path, name: str) -> None:
    """Prefixes lose their windows, requests wait for pages; what they write does not change."""
    model, rnd = save(name, tmp_path), random.Random(5)
    vocab = model.config.vocab_size
    stem = tokens_of(rnd, 60, vocab)
    prompts = [stem[: rnd.randrange(60)] + tokens_of(rnd, rnd.randrange(1, 60), vocab) for _ in range(24)]
    settings = {"chunked_prefill_size": 16, "page_size": 4, "max_running_requests": 2, "max_total_tokens": 1600}
    with engine(tmp_path, **settings) as scarce:
        pages = scarce._loop.scheduler.ledger.beside.pool.total
        assert pages * 4 <= 400
        outputs = scarce.generate(input_ids=prompts, sampling_params=GREEDY)
        again = scarce.generate(input_ids=prompts, sampling_params=GREEDY)
    for prompt, output, other in zip(prompts, outputs, again, strict=True):
        check_greedy(model, prompt, output["output_ids"])
        assert not COMPILED or other["output_ids"] == output["output_ids"]
    assert sum(o["meta_info"]["cached_tokens"] for o in outputs + again) > 0


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "qwen2-moe"])
def test_int8_of_linears_keys_and_values(tmp_path: Path, name: str) -> None:
    """Experts and routers stay as they are. Where two are close, rounding may choose the other: so the median."""
    model = save(name, tmp_path)
    tokens = tokens_of(random.Random(1), 60, model.config.vocab_size)
    runner = make_runner(tmp_path, quantization="w8a8", kv_cache_dtype="int8")
    wanted = reference_logits(model, tokens)

    def error(runner: Runner) -> float:
        off = all_logits(runner, tokens, [40, 20]) - wanted
        return float((off.norm(dim=1) / wanted.norm(dim=1)).median())

    assert error(runner) < 4 * error(make_runner(tmp_path, dtype="bfloat16"))


def test_latents_are_not_kept_in_int8(tmp_path: Path) -> None:
    save("deepseek-v3", tmp_path)
    with pytest.raises(StartupError, match="latents"):
        make_runner(tmp_path, kv_cache_dtype="int8")


@pytest.mark.parametrize("page_size", [1, 16])
def test_logits_of_a_real_model(stories: tuple[Path, PreTrainedModel], page_size: int) -> None:
    folder, model = stories
    tokens = tokens_of(random.Random(2), 300, 2048)
    ours = all_logits(make_runner(folder, page_size=page_size), tokens, [100, 150, 50])
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4


def test_greedy_text(tiny: tuple[Path, PreTrainedModel]) -> None:
    """What transformers would write; and where the kernels are compiled, the same under all circumstances."""
    folder, model = tiny
    written: dict[tuple[int, ...], list[int]] = {}
    for name, prompts, outputs, _ in scenarios(folder, model):
        ties = 0
        for prompt, output in zip(prompts, outputs, strict=True):
            tokens = output["output_ids"]
            before = written.setdefault(tuple(prompt), tokens)
            if before is tokens or not COMPILED:
                ties += check_greedy(model, prompt, tokens)
                assert len(tokens) == NEW
            else:
                assert tokens == before, name
        print(f"{folder.name} {name}: {ties} near ties in {NEW * len(prompts)} tokens")


def test_every_architecture_has_a_row() -> None:
    rows = {make_config(name).architectures[0] for name in FAMILIES}
    assert rows == set(ARCHITECTURES)


def test_tensors_that_are_missing_or_left_over_are_named(tiny: tuple[Path, PreTrainedModel], tmp_path: Path) -> None:
    folder, _ = tiny
    config = read_config(folder)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    gone = sorted(tensors)[len(tensors) // 2]
    kept = {name: tensor for name, tensor in tensors.items() if name != gone}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match=f"lacks 1 tensors: {re.escape(gone)}"):
        checked_tensors(tmp_path, config)
    save_file({**tensors, "model.layers.0.extra.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match=r"no place for: model\.layers\.0\.extra\.weight"):
        checked_tensors(tmp_path, config)


def test_greedy_text_of_a_real_model(stories: tuple[Path, PreTrainedModel]) -> None:
    folder, model = stories
    for name, prompts, outputs, _ in scenarios(folder, model):
        ties = sum(check_greedy(model, p, o["output_ids"]) for p, o in zip(prompts, outputs, strict=True))
        print(f"stories {name}: {ties} near ties in {NEW * len(prompts)} tokens")
