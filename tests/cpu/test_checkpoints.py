"""Quantized checkpoints of others: what is read, element for element, and what a model makes of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from harness import all_logits, make_runner, relative_error
from models import reference_logits
from quantizing import FORMATS, save_quantized

from ramify.config.model import read_config
from ramify.models.load import _read
from ramify.models.preflight import checked_tensors
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
