"""How adapters are asked for, and what of the memory they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ramify.cli.serve import show
from ramify.cli.settings import parse
from ramify.config.adapters import Adaptable
from ramify.config.machine import Machine
from ramify.config.memory import MIB
from ramify.config.model import parse_config
from ramify.config.read import from_environment, from_yaml, overlay
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.engine.build import adaptable
from ramify.models.adapted import chosen, sites_of

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def decide(adaptable: Adaptable | None, memory: int = 8 << 30, **asked: object) -> Resolved:
    settings = overlay(Settings(), asked, "test")
    return resolve(settings, parse_config(CONFIG), Path("/m"), Machine(memory, 2, False), adaptable)


def test_lists(tmp_path: Path) -> None:
    """Words behind a flag, JSON, a variable, a file, and what Engine takes."""
    two = ("a=/x", "b=/y")
    assert parse(["/m", "--lora-paths", *two, "--port", "1"], "t").adapters.lora_paths == two
    assert parse(["--lora-paths", '["a=/x", "b=/y"]'], "t").adapters.lora_paths == two
    assert parse(["--lora-paths=a=/x"], "t").adapters.lora_paths == two[:1]
    assert from_environment(Settings(), {"RAMIFY_LORA_PATHS": "a=/x b=/y"}).adapters.lora_paths == two
    file = tmp_path / "c.yaml"
    file.write_text("lora-paths: {a: /x, b: /y}\nlora-target-modules: [q_proj]\n")
    read = from_yaml(Settings(), str(file)).adapters
    assert (read.lora_paths, read.lora_target_modules) == (two, ("q_proj",))
    entry = {"lora_name": "a", "lora_path": "/x", "pinned": True}
    for given in ([entry], entry):
        (text,) = overlay(Settings(), {"lora_paths": given}, "t").adapters.lora_paths or ()
        assert '"pinned": true' in text
    assert overlay(Settings(), {"lora_paths": {"a": "/x"}}, "t").adapters.lora_paths == two[:1]
    for wrong in ("", [], [5], '["a"', [""], {"a": 5}.keys()):
        with pytest.raises(StartupError, match="lora_paths"):
            overlay(Settings(), {"lora_paths": wrong}, "lora_paths", lambda name: name)


def test_room_for_words() -> None:
    """Whole embeddings and heads, and added tokens: in both, and a number in every low rank."""
    model = parse_config(CONFIG)
    asked = {"enable_lora": True, "lora_target_modules": ("q_proj", "embed_tokens")}
    plain = adaptable(overlay(Settings(), asked, "test"), model)
    whole = adaptable(overlay(Settings(), {**asked, "lora_whole_modules": ("lm_head",)}, "test"), model)
    assert plain is not None
    assert whole is not None
    assert (plain.whole, whole.whole, whole.cells) == ((), ("lm_head",), 1000 * 64)
    sizes = []
    for made, more in ((plain, {}), (whole, {}), (whole, {"lora_extra_vocab_size": 10})):
        plan = decide(made, max_lora_rank=4, **more).adapters
        assert plan is not None
        sizes.append((plan.each, plan.slot))
    assert sizes[1] == (sizes[0][0] + 1000 * 64 * 4, sizes[0][1])
    assert sizes[2] == (sizes[1][0] + 10 * (2 * 64 + 4) * 4, sizes[1][1] + 10 * 4 * 4)
    with pytest.raises(StartupError, match="an adapter of --lora-paths has 3"):
        decide(replace(whole, added=3), lora_extra_vocab_size=2)
    assert decide(replace(whole, added=3)).adapters.added == 3  # type: ignore[union-attr]


def test_room_for_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    assert decide(None).adapters is None
    adaptable = Adaptable(elements=1 << 20, targets=("q_proj",), rank=0, rows=1000)
    resolved = decide(adaptable)
    plan = resolved.adapters
    assert plan is not None
    assert (plan.slots, plan.loaded, plan.rank, plan.each) == (8, 32, 16, 64 * MIB)
    assert plan.size == resolved.memory.adapters == 32 * 64 * MIB + 8 * 16 * 1000 * 4
    assert resolved.memory.pool_tokens == decide(None).memory.pool_tokens  # there is enough
    tight = 3 << 30
    assert decide(adaptable, memory=5 << 30).memory.pool_tokens > 0
    with pytest.raises(StartupError, match="does not fit"):
        decide(adaptable, memory=tight)
    assert decide(None, memory=tight).memory.pool_tokens > 0
    show(resolved)
    said = capsys.readouterr().out
    assert "32 of rank 16, of which 8 compute" in said
    assert "max_lora_rank" in said


def test_ranks_and_counts() -> None:
    brought = Adaptable(elements=1000, targets=("q_proj",), rank=24)
    assert decide(brought).adapters.rank == 24  # type: ignore[union-attr]
    assert decide(brought, max_lora_rank=64).adapters.rank == 64  # type: ignore[union-attr]
    assert decide(brought, max_loras_per_batch=40).adapters.loaded == 40  # type: ignore[union-attr]
    for asked, says in (
        ({"max_lora_rank": 8}, "has rank 24"),
        ({"max_loaded_loras": 4}, "less than the 8"),
        ({"max_lora_rank": 1000}, "at most 512"),
    ):
        with pytest.raises(StartupError, match=says):
            decide(brought, **asked)


def test_sites() -> None:
    sites = sites_of(parse_config(CONFIG))
    assert sites["model.layers.1.self_attn.k_proj"].layer == "layers.1.attention.qkv"
    assert (sites["lm_head"].kind, sites["model.embed_tokens"].kind) == ("head", "embedding")
    every = chosen(sites, ("all",))
    assert len(every) == 2 * 7
    assert len(chosen(sites, ("q_proj", "lm_head"))) == 3
    assert len(chosen(sites, ("all", "embed_tokens"))) == 15
    with pytest.raises(StartupError, match="frob cannot be adapted") as e:
        chosen(sites, ("q_proj", "frob"))
    assert "embed_tokens, gate_proj" in e.value.remedy
