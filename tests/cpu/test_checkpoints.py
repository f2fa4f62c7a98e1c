"""Quantized checkpoints of others: what is read, element for element, and what a model makes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import all_logits, make_runner, relative_error
from models import reference_logits
from quantizing import FORMATS, save_quantized
from safetensors.torch import load_file, save_file

import ramify
from ramify.config.model import read_config
from ramify.config.quantized import Quantized
from ramify.core.errors import StartupError
from ramify.models.load import _read
from ramify.models.preflight import checked_tensors
from ramify.ops.cpu.library import load
from ramify.ops.kernels import Kernels
from ramify.ops.platform import make_platform
from ramify.quant.bnb import BITSANDBYTES
from ramify.quant.kept import PlainRun
from ramify.weights.checkpoint import Reader

formats = pytest.mark.parametrize("name", FORMATS)
CHUNKS = [40, 1, 19]


def tokens_of(vocab: int, count: int = 60) -> list[int]:
    rnd = random.Random(1)
    return [rnd.randrange(3, vocab) for _ in range(count)]


@formats
def test_what_is_read_is_what_was_written(name: str, tmp_path: Path) -> None:
    """Element for element, and in the form that kernels compute in where there is one."""
    how = FORMATS[name]
    model = save_quantized("llama-bias", tmp_path, how)
    reader, forms = Reader(), set()
    for key, place in checked_tensors(tmp_path, read_config(tmp_path)).items():
        if place.format is None:
            continue
        found, expected = _read(place, reader), model.get_parameter(key).data
        forms.add(type(found).__name__)
        outputs = len(expected)
        torch.testing.assert_close(found.rows(0, outputs), expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(
            found.rows(outputs // 3, outputs - 1), expected[outputs // 3 : -1], rtol=1e-6, atol=1e-9
        )
    assert forms == {how.form}


@formats
def test_logits(name: str, tmp_path: Path) -> None:
    """Weights that are computed as they are differ by the rounding of inputs to int8 alone."""
    how = FORMATS[name]
    model = save_quantized("llama-bias", tmp_path, how)
    tokens = tokens_of(model.config.vocab_size)
    ours = all_logits(make_runner(tmp_path), tokens, CHUNKS)
    error = relative_error(ours, reference_logits(model, tokens))
    assert error < (1e-4 if how.exact else 0.1)
    assert how.exact or error > 1e-6, "inputs were to be rounded"


@pytest.mark.parametrize("name", ["ct-w8a8", "ct-w4a16", "awq", "gptq-4-asym-order-v2", "bnb-nf4"])
@pytest.mark.parametrize("left_out", [("k_proj",), ("q_proj", "up_proj"), ("v_proj", "gate_proj")], ids=str)
def test_parts_of_a_fused_linear_in_several_forms(name: str, left_out: tuple[str, ...], tmp_path: Path) -> None:
    how = FORMATS[name]
    model = save_quantized("llama-bias", tmp_path, how, left_out)
    tokens = tokens_of(model.config.vocab_size)
    ours = all_logits(make_runner(tmp_path), tokens, CHUNKS)
    assert relative_error(ours, reference_logits(model, tokens)) < (1e-4 if how.exact else 0.1)


@pytest.mark.parametrize("name", ["ct-w8a8", "awq", "gptq-4-asym-order-v2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_numbers_of_a_row_are_its_own(name: str, dtype: str, tmp_path: Path) -> None:
    """Whatever else is computed beside it."""
    save_quantized("llama-bias", tmp_path, FORMATS[name])
    block = make_runner(tmp_path, dtype=dtype).model.layers[0]
    generator = torch.Generator().manual_seed(1)
    for layer, inputs in ((block.attention.qkv, 64), (block.mlp.gate_up, 64), (block.mlp.down, 96)):
        assert not isinstance(layer.runs[0], PlainRun)
        x = torch.randn(37, inputs, generator=generator).to(getattr(torch, dtype))
        together = layer(x)
        for row in (0, 17, 36):
            assert torch.equal(layer(x[row : row + 1])[0], together[row])


DENSE, SPARSE = ("qwen3", "phi3"), ("mixtral", "qwen3-moe", "deepseek-v3")
FAMILIES = [(family, name) for family in DENSE for name in ("fp8-block", "ct-w4a16", "ct-w8a8")]
FAMILIES += [(family, name) for family in SPARSE for name in ("fp8-block", "gptq-4-group-8", "ct-w8a8")]


@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_families(family: str, name: str, tmp_path: Path) -> None:
    """Fused checkpoints, latent attention and experts, whose weights are dequantized. Where inputs are rounded, tokens
    come to other experts now and then, so that it is most positions that have to be right.
    """
    how = FORMATS[name]
    model = save_quantized(family, tmp_path, how)
    tokens = tokens_of(model.config.vocab_size)
    ours, reference = all_logits(make_runner(tmp_path), tokens, CHUNKS), reference_logits(model, tokens)
    if how.exact:
        assert relative_error(ours, reference) < 1e-4
    else:
        assert ((ours - reference).abs().amax(1) / reference.abs().amax(1)).median() < 0.1


def spoilt(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """What is said of a checkpoint whose tensors were changed."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(StartupError) as error:
        make_runner(folder)
    return str(error.value)


Q = "model.layers.1.self_attn.q_proj"
SPOILT: list[tuple[str, str, Callable[[dict[str, torch.Tensor]], object]]] = [
    ("fp8-block", f"lacks the tensor {Q}.weight_scale_inv", lambda t: t.pop(f"{Q}.weight_scale_inv")),
    ("fp8-block", f"{Q}.weight_scale_inv has", lambda t: t.update({f"{Q}.weight_scale_inv": torch.ones(7, 7)})),
    ("fp8-block", f"no place for: {Q}.zeros", lambda t: t.update({f"{Q}.zeros": torch.ones(7)})),
    ("gptq-4-sym", f"lacks the tensor {Q}.qzeros", lambda t: t.pop(f"{Q}.qzeros")),
    ("gptq-4-sym", f"lacks 1 tensors: {Q}.weight", lambda t: t.pop(f"{Q}.qweight")),
    ("gptq-4-sym", f"{Q}.scales has the type I32", lambda t: t.update({f"{Q}.scales": t[f"{Q}.qzeros"].repeat(1, 8)})),
    ("gptq-4-order", "g_idx names a group", lambda t: t[f"{Q}.g_idx"].add_(1000)),
    ("gptq-4-order", "g_idx names a group", lambda t: t[f"{Q}.g_idx"].sub_(1000)),
    ("ct-w4a16-order", "weight_g_idx names a group", lambda t: t[f"{Q}.weight_g_idx"].add_(1000)),
    ("awq", f"{Q}.qweight has the shape", lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"][:-1].clone()})),
    ("awq", f"{Q}.scales: 0 groups", lambda t: t.pop(f"{Q}.scales")),
    ("ct-w4a16", f"{Q}.weight_scale: 5 groups", lambda t: t.update({f"{Q}.weight_scale": torch.ones(64, 5)})),
    ("bnb-nf4", "is damaged", lambda t: t[f"{Q}.weight.quant_state.bitsandbytes__nf4"].zero_()),
    ("bnb-nf4", f"lacks the tensor {Q}.weight.quant_map", lambda t: t.pop(f"{Q}.weight.quant_map")),
    ("bnb-nf4", f"{Q}.weight.absmax has the shape", lambda t: t.update({f"{Q}.weight.absmax": torch.ones(3)})),
]


def quantized_head(tensors: dict[str, torch.Tensor]) -> None:
    """Which the configuration names among what is not."""
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)
    tensors["lm_head.weight_scale"] = torch.ones(211, 1)


SPOILT.append(("ct-w8a8", "lm_head is quantized, and", quantized_head))


@pytest.mark.parametrize(("name", "said", "change"), SPOILT, ids=[f"{name}: {said}" for name, said, _ in SPOILT])
def test_tensors_that_do_not_fit(
    name: str, said: str, change: Callable[[dict[str, torch.Tensor]], object], tmp_path: Path
) -> None:
    save_quantized("llama-bias", tmp_path, FORMATS[name])
    assert said in spoilt(tmp_path, change)


def test_weights_in_bytes_without_a_word_about_them(tmp_path: Path) -> None:
    save_quantized("llama-bias", tmp_path, FORMATS["fp8-tensor"])
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartupError, match=r"input_scale"):
        make_runner(tmp_path)
    said = spoilt(tmp_path, lambda t: [t.pop(name) for name in list(t) if "scale" in name])
    assert "has the type F8_E4M3, and config.json does not say how to read it" in said


@pytest.mark.parametrize("name", ["fp8-block", "gptq-4-order", "awq", "bnb-int8"])
@pytest.mark.parametrize("quantization", ["w8a8", "int4"])
def test_quantized_once_more(name: str, quantization: str, tmp_path: Path) -> None:
    """Whatever a checkpoint is stored in can be made what was asked for."""
    model = save_quantized("llama-bias", tmp_path, FORMATS[name])
    tokens = tokens_of(model.config.vocab_size)
    ours = all_logits(make_runner(tmp_path, quantization=quantization), tokens, CHUNKS)
    assert 1e-6 < relative_error(ours, reference_logits(model, tokens)) < {"w8a8": 0.15, "int4": 0.6}[quantization]


def test_the_log_says_what_is_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_quantized("llama-bias", tmp_path, FORMATS["awq"], ("o_proj",))
    with caplog.at_level("INFO"):
        make_runner(tmp_path)
    assert "9 linears in four bits, 3 linears in the model's type" in caplog.text


@pytest.mark.parametrize(("name", "most"), [("ct-w8a8", 0.57), ("gptq-4-sym", 0.3), ("awq", 0.35), ("fp8-block", 1.01)])
def test_what_stands_in_memory(name: str, most: float, tmp_path: Path) -> None:
    """In shares of bfloat16; as many linears as these are small ones, which panels pad."""
    save_quantized("llama-bias", tmp_path, FORMATS[name])
    for linear in (layer := make_runner(tmp_path, dtype="bfloat16").model.layers[0]).mlp.gate_up, layer.mlp.down:
        stored = sum(parameter.nbytes for parameter in linear.parameters()) - linear.bias.nbytes
        assert stored <= most * 2 * 64 * 96 * (2 if linear is layer.mlp.gate_up else 1)


def test_bitsandbytes_itself_says_the_same() -> None:
    library = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(1))
    for nested in (False, True):
        packed, state = library.quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
        tensors = {f"weight.{key}": each for key, each in state.as_dict(packed=True).items()}
        roles = {
            "weight.absmax": "absmax",
            "weight.quant_map": "map",
            "weight.nested_absmax": "nested",
            "weight.nested_quant_map": "nested_map",
            "weight.quant_state.bitsandbytes__nf4": "state",
        }
        given = {roles[name]: each for name, each in tensors.items()} | {"packed": packed}
        found = BITSANDBYTES.stored(given, (48, 128), Quantized("bitsandbytes", "float"))
        torch.testing.assert_close(found.rows(0, 48), library.dequantize_4bit(packed, state), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (37, 100), (5, 33), (64, 128)])
def test_whole_numbers_are_taken_as_they_are_packed(outputs: int, inputs: int) -> None:
    """Weights that rounding leaves alone come to the same bytes on both ways, of every platform."""
    generator = torch.Generator().manual_seed(outputs)
    kernels = [Kernels()] + ([make_platform("cpu", 1, "float32").kernels] if load() is not None else [])
    whole = torch.randint(-127, 128, (outputs, inputs), generator=generator).to(torch.int8)
    whole[:, 0] = 127
    scale = 2.0 ** torch.randint(-6, 3, (outputs,), generator=generator)
    groups = -(-inputs // 32)
    half = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, generator=generator)
    half[:, ::32] = 0
    scale4 = 2.0 ** torch.randint(-6, 3, (outputs, groups), generator=generator)
    plain = (half.float() - 8) * scale4.repeat_interleave(32, 1)[:, :inputs]
    for each in kernels:
        assert each.w8a8.take is not None
        assert each.int4.take is not None
        x = torch.randn(3, inputs, generator=generator)
        weight = whole.float() * scale[:, None]
        taken, packed = each.w8a8.take(whole, scale), each.w8a8.pack(weight)
        assert torch.equal(each.w8a8.linear(x, taken, outputs, None), each.w8a8.linear(x, packed, outputs, None))
        assert taken.shape == packed.shape
        taken, packed = each.int4.take(half, scale4), each.int4.pack(plain)
        assert taken.shape == packed.shape
        assert torch.equal(each.int4.linear(x, taken, outputs, None), each.int4.linear(x, packed, outputs, None))


@pytest.mark.parametrize("name", ["ct-w8a8", "awq", "gptq-4-asym-order-v2", "fp8-block"])
def test_steps_that_are_made_again(name: str, tmp_path: Path) -> None:
    """Decoding repeats recorded steps: its tokens are those that whole prompts give, alone and side by side."""
    save_quantized("llama-bias", tmp_path, FORMATS[name], ("v_proj",))
    prompts = [tokens_of(211, 20)[at:] for at in (0, 3, 7)]
    asked = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
    settings = {"skip_tokenizer_init": True, "max_total_tokens": 1024, "dtype": "float32"}
    with ramify.Engine(str(tmp_path), **settings) as engine:
        together = engine.generate(input_ids=prompts, sampling_params=asked)
        alone = [engine.generate(input_ids=prompt, sampling_params=asked) for prompt in prompts]
    for prompt, one, other in zip(prompts, together, alone, strict=True):
        assert one["output_ids"] == other["output_ids"]
        whole = [*prompt, *one["output_ids"]]
        best = all_logits(make_runner(tmp_path), whole, [len(whole)]).argmax(1)
        assert best[len(prompt) - 1 : -1].tolist() == one["output_ids"]


def test_experts_in_few_bits_that_decode(tmp_path: Path) -> None:
    save_quantized("mixtral", tmp_path, FORMATS["ct-w4a16-channel"])
    asked = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    prompts = [[5, 6, 7], [9, 8, 7, 6]]
    settings = {"skip_tokenizer_init": True, "max_total_tokens": 512, "dtype": "float32"}
    with ramify.Engine(str(tmp_path), **settings) as engine:
        together = engine.generate(input_ids=prompts, sampling_params=asked)
    for prompt, one in zip(prompts, together, strict=True):
        whole = [*prompt, *one["output_ids"]]
        best = all_logits(make_runner(tmp_path), whole, [len(whole)]).argmax(1)
        assert best[len(prompt) - 1 : -1].tolist() == one["output_ids"]
