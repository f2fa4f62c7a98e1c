"""Adapters that PEFT itself saved, and files that somebody damaged."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from models import make
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from ramify.adapters.peft import ADDED, PREFIX, WEIGHTS, AdapterFile, Limits, from_tensors, read
from ramify.core.errors import BadRequest, NotFound

LIMITS = Limits(rank=64, size=1 << 24)
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def tensors(rank: int = 4, **more: Tensor) -> dict[str, Tensor]:
    made = {f"{PREFIX}{Q}.lora_A.weight": torch.ones(rank, 32), f"{PREFIX}{Q}.lora_B.weight": torch.ones(16, rank)}
    return made | {f"{PREFIX}{name}": tensor for name, tensor in more.items()}


def written(folder: Path, config: dict[str, Any] | None = None, weights: dict[str, Tensor] | None = None) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG if config is None else config))
    save_file(tensors() if weights is None else weights, folder / WEIGHTS)
    return folder


def refused(folder: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(BadRequest) as e:
        read("a", folder, limits)
    assert e.value.param
    return e.value.message


def of_peft(folder: Path, **more: Any) -> tuple[torch.nn.Module, AdapterFile]:
    """A small model with an adapter of random numbers, and what we read of what was saved."""
    torch.manual_seed(0)
    model = peft.get_peft_model(make("qwen3"), peft.LoraConfig(task_type="CAUSAL_LM", **more))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    found = read("made", folder, LIMITS)
    return model.merge_and_unload(), found


def merged(name: str, weight: Tensor, found: AdapterFile) -> Tensor:
    """By what we read."""
    module = name.removesuffix(".weight")
    if module in found.whole:
        return found.whole[module]
    if module in found.bases:
        assert torch.equal(found.bases[module], weight)
    if module in found.embeddings:
        pair = found.embeddings[module]
        return weight + pair.scale * (pair.up_ER @ pair.down_RD).T
    if module not in found.tensors:
        return weight
    pair = found.tensors[module]
    return weight + pair.scale * pair.up_ER @ pair.down_RD


@pytest.mark.parametrize(
    ("more", "targets"),
    [
        ({"target_modules": ["q_proj", "down_proj"], "r": 5}, {"q_proj", "down_proj"}),
        ({"target_modules": r".*\.(k_proj|up_proj)", "r": 4, "use_rslora": True}, {"k_proj", "up_proj"}),
        (
            {"target_modules": "all-linear", "rank_pattern": {"o_proj": 3}, "alpha_pattern": {"v_proj": 11}},
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
        ({"target_modules": ["o_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}, {"o_proj"}),
        ({"target_modules": ["embed_tokens", "lm_head"]}, {"embed_tokens", "lm_head"}),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, {"q_proj"}),
    ],
    ids=["list", "regex", "patterns", "layers", "embeddings", "whole"],
)
def test_what_peft_saved_is_what_it_merges(tmp_path: Path, more: dict[str, Any], targets: set[str]) -> None:
    whole, found = of_peft(tmp_path, **more)
    assert set(found.targets) == targets
    assert found.rank == max(len(pair.down_RD) for pair in (*found.tensors.values(), *found.embeddings.values()))
    base = make("qwen3").state_dict()
    changed = 0
    for name, expected in whole.state_dict().items():
        ours = merged(name, base[name], found)
        assert torch.allclose(ours, expected, atol=1e-6), name
        changed += not torch.equal(expected, base[name])
    assert changed >= len(found.tensors) > 0 or found.embeddings
    assert found.size == sum(tensor.nbytes for tensor in load_file(tmp_path / WEIGHTS).values())


def test_the_same_of_tensors() -> None:
    found = from_tensors("a", CONFIG, save(tensors()), LIMITS, {"<new>": 300})
    assert (found.name, found.rank, found.alpha, found.targets) == ("a", 4, 8.0, ("q_proj",))
    assert found.tensors[Q].scale == 2.0
    assert found.added == {"<new>": 300}
    with pytest.raises(BadRequest, match="over 100 bytes"):
        from_tensors("a", CONFIG, save(tensors()), Limits(64, 100))


def test_names_without_the_prefix_of_peft(tmp_path: Path) -> None:
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in tensors().items()}
    assert list(read("a", written(tmp_path, weights=bare), LIMITS).tensors) == [Q]


def test_added_tokens(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / ADDED).write_text('{"<a>": 7, "<b>": 8}')
    assert read("a", tmp_path, LIMITS).added == {"<a>": 7, "<b>": 8}
    for wrong in ('{"<a>": -1}', '{"<a>": "7"}', '{"": 7}', '{"<a>": true}', '{"<a>": 4294967296}', "[]", "{"):
        (tmp_path / ADDED).write_text(wrong)
        assert ADDED in refused(tmp_path)


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ({}, "0 tensors"),
        (tensors(rank=3), "rank 3"),
        (tensors(**{f"{V}.lora_A.weight": torch.ones(4, 32)}), "no lora_B"),
        (tensors(**{f"{V}.lora_B.weight": torch.ones(4, 4)}), "no lora_A"),
        (tensors(**{"model.layers.0.self_attn.o_proj.lora_A.weight": torch.ones(4, 8)}), "target_modules"),
        (tensors(**{f"{V}.lora_magnitude_vector": torch.ones(4, 4)}), "no part"),
        (tensors(**{"model.norm.weight": torch.ones(4, 4)}), "no part"),
        (tensors(**{f"{V}.lora_A.default.weight": torch.ones(4, 4)}), "no part"),
        (tensors(**{f"{V}.lora_A.weight": torch.ones(4)}), "shape"),
        (tensors(**{f"{V}.lora_A.weight": torch.ones(4, 0)}), "shape"),
        (tensors(**{f"{V}.lora_A.weight": torch.ones(4, 4, dtype=torch.int8)}), "type I8"),
        (tensors(**{f"{V}.lora_A.weight": torch.ones(4, 4, dtype=torch.float64)}), "type F64"),
        (
            tensors(**{f"{V}.lora_A.weight": torch.full((4, 32), torch.nan), f"{V}.lora_B.weight": torch.ones(4, 4)}),
            "finite",
        ),
        (tensors(**{"lm_head.weight": torch.full((9, 4), torch.inf)}), "finite"),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, weights: dict[str, Tensor], what: str) -> None:
    assert what in refused(written(tmp_path, weights=weights))


def test_limits(tmp_path: Path) -> None:
    written(tmp_path)
    assert "takes up to 3" in refused(tmp_path, Limits(3))
    assert "over 50 bytes" in refused(tmp_path, Limits(64, 50))
    (tmp_path / "adapter_config.json").write_text(" " * (1 << 20) + "{}")
    assert "adapter_config.json has over" in refused(tmp_path)


def test_what_is_saved_beside_has_to_be_there(tmp_path: Path) -> None:
    assert "modules_to_save" in refused(written(tmp_path, {**CONFIG, "modules_to_save": ["lm_head"]}))
    assert "modules_to_save" in refused(written(tmp_path, {**CONFIG, "modules_to_save": ["score"]}))


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read("a", tmp_path / "nowhere", LIMITS)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "pickled" in refused(tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    assert "no adapter_config.json" in refused(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert f"no {WEIGHTS}" in refused(tmp_path)
    os.mkfifo(tmp_path / WEIGHTS)
    assert f"no {WEIGHTS}" in refused(tmp_path)


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    written(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        (tmp_path / WEIGHTS).write_bytes(whole[:length])
        assert WEIGHTS in refused(tmp_path), length


def headed(header: Any, data: int = 64) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


ENTRY = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
KEYS = [f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"]


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        headed(b"[" * 100_000),
        headed(b"[]"),
        headed(b"\xff\xff"),
        headed({KEYS[0]: {**ENTRY, "shape": [1 << 39, 1 << 39]}}),
        headed({KEYS[0]: {**ENTRY, "shape": [-4, -4]}}),
        headed({KEYS[0]: {**ENTRY, "shape": [4.0, 4]}}),
        headed({KEYS[0]: {**ENTRY, "shape": None}}),
        headed({KEYS[0]: {**ENTRY, "data_offsets": [0, 1 << 40]}}),
        headed({KEYS[0]: {**ENTRY, "data_offsets": [-64, 0]}}),
        headed({KEYS[0]: {**ENTRY, "data_offsets": [0]}}),
        headed({KEYS[0]: {**ENTRY, "data_offsets": [64, 128]}}),
        headed({KEYS[0]: {**ENTRY, "dtype": "F4"}}),
        headed({KEYS[0]: {**ENTRY, "dtype": 7}}),
        headed({KEYS[0]: "F32"}),
        headed({KEYS[0]: ENTRY, KEYS[1]: ENTRY}),  # the same bytes twice
    ],
)
def test_headers_that_lie(tmp_path: Path, raw: bytes) -> None:
    written(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(raw)
    assert WEIGHTS in refused(tmp_path)
    with pytest.raises(BadRequest):
        from_tensors("a", CONFIG, raw, LIMITS)


def test_every_byte_of_a_header_changed() -> None:
    """It is read, or refused in words."""
    whole = save(tensors())
    (length,) = struct.unpack("<Q", whole[:8])
    for at in range(8 + length):
        for bits in (0x01, 0x10, 0x80):
            changed = bytearray(whole)
            changed[at] ^= bits
            with contextlib.suppress(BadRequest):
                assert from_tensors("a", CONFIG, bytes(changed), LIMITS).tensors
