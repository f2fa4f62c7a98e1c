"""Settings from everywhere, and what is decided from them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from assets import shared
from ramify.cli.settings import parse
from ramify.config.machine import Machine, read_machine
from ramify.config.model import ModelConfig, parse_config
from ramify.config.read import PREFIX, from_environment, from_yaml, overlay, parse_bool, parse_int
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import Settings, names
from ramify.core.errors import StartupError

GIB = 1 << 30
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "eos_token_id": 151645,
    "rope_theta": 1000000,
}


def decide(machine: Machine | None = None, config: dict | None = None, **asked: object) -> Resolved:
    settings = overlay(Settings(), asked, "test")
    return resolve(settings, parse_config(config or CONFIG), Path("/m"), machine or Machine(16 * GIB, 8, False))


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("4k", 4000), ("2Ki", 2048), ("1M", 10**6), ("1e6", 10**6), ("1.5k", 1500), ("1_000", 1000)],
)
def test_whole_numbers(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.5", "k", "1kk"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError):
        parse_int(text)


def test_booleans() -> None:
    assert [parse_bool(t) for t in ("true", "1", "on", "No", "OFF")] == [True, True, True, False, False]
    with pytest.raises(ValueError):
        parse_bool("maybe")


def sample(name: str) -> object:
    """A value for a setting that is not its default."""
    special = {
        "load_format": "dummy", "dtype": "float32", "device": "cpu", "attention_backend": "reference",
        "schedule_policy": "lpm", "log_level": "debug", "metrics_compat": "sglang", "host": "::1",
    }  # fmt: skip
    if name in special:
        return special[name]
    _, field = names()[name]
    if isinstance(field.default, bool):
        return not field.default
    if "int" in str(field.type):
        return 7
    return 0.5 if "float" in str(field.type) else "text"


@pytest.mark.parametrize("name", names())
def test_every_setting_is_a_flag_a_yaml_key_and_a_variable(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, (room, _) = sample(name), names()[name]

    def found(settings: Settings) -> object:
        return getattr(getattr(settings, room), name)

    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({name: value}))
    assert found(from_yaml(Settings(), str(config))) == value
    assert found(from_environment(Settings(), {PREFIX + name.upper(): str(value)})) == value
    flag = f"--{name.replace('_', '-')}"
    arguments = [flag] if value is True else [flag, str(value)]
    assert found(parse(arguments, "test")) == value
    assert found(parse(["--config", str(config)], "test")) == value
    monkeypatch.setenv(PREFIX + name.upper(), str(value))
    assert found(parse([], "test")) == value


def test_flags_win_over_environment_and_environment_over_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("port: 1\npage-size: 1\nthreads: 1\n")
    monkeypatch.setenv("RAMIFY_PORT", "2")
    monkeypatch.setenv("RAMIFY_PAGE_SIZE", "2")
    settings = parse(["--config", str(config), "--port", "3"], "test")
    assert (settings.server.port, settings.cache.page_size, settings.model.threads) == (3, 2, 1)


def test_the_model_by_position_or_by_flag() -> None:
    assert parse(["org/m"], "t").model.model_path == "org/m"
    assert parse(["--model-path", "m"], "t").model.model_path == "m"
    assert parse(["--model", "m"], "t").model.model_path == "m"
    assert parse(["--tp", "1", "m"], "t").model.model_path == "m"
    with pytest.raises(StartupError, match="twice"):
        parse(["a", "--model-path", "b"], "t")


@pytest.mark.parametrize("text", ["- a\n", "port: [1]\n", "nope: 1\n", "port: x\n", "a: b: c\n", "port: 1.5\n"])
def test_bad_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(StartupError):
        from_yaml(Settings(), str(path))


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("port: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(StartupError, match="not valid YAML"):
        from_yaml(Settings(), str(path))


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server.port = 3  # type: ignore[misc]


# -- deciding --------------------------------------------------------------------------------------------------------


def reason(resolved: Resolved, name: str) -> str:
    return next(d.reason for d in resolved.decisions if d.name == name)


def test_the_same_arguments_give_the_same_answer() -> None:
    assert decide() == decide()


def test_every_decision_has_a_reason() -> None:
    resolved = decide()
    assert all(d.reason for d in resolved.decisions)
    assert {"dtype", "context_length", "page_size", "max_total_tokens", "threads", "depth"} <= {
        d.name for d in resolved.decisions
    }


@pytest.mark.parametrize(
    ("stored", "bf16", "dtype"),
    [
        ("bfloat16", True, "bfloat16"),
        ("bfloat16", False, "float32"),
        ("float16", True, "float32"),
        ("float32", True, "float32"),
    ],
)
def test_dtype(stored: str, bf16: bool, dtype: str) -> None:
    resolved = decide(Machine(16 * GIB, 8, bf16), {**CONFIG, "torch_dtype": stored})
    assert resolved.dtype == dtype
    assert decide(dtype="half").dtype == "float16"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 2), (16, 15)])
def test_one_core_is_left_for_the_front_end(cores: int, threads: int) -> None:
    assert decide(Machine(16 * GIB, cores, False)).threads == threads


def test_the_pool_is_what_memory_leaves_or_what_can_be_used() -> None:
    tight = decide(Machine(8 * GIB, 2, False))
    assert tight.memory.pool + tight.memory.weights + tight.memory.activations < 0.7 * 8 * GIB
    assert "leaves beside the weights" in reason(tight, "max_total_tokens")
    small = decide(Machine(64 * GIB, 2, False), context_length=1024, max_running_requests=4)
    assert small.memory.pool_tokens == 4096
    assert "all that 4 requests of 1024 tokens can use" in reason(small, "max_total_tokens")
    assert decide(max_total_tokens=1000).memory.pool_tokens == 992


def test_a_pool_that_cannot_be_is_refused_with_numbers() -> None:
    with pytest.raises(StartupError, match="does not fit"):
        decide(Machine(3 * GIB, 2, False))
    with pytest.raises(StartupError, match="At most about"):
        decide(max_total_tokens=10**9)


def test_a_window_caps_the_context() -> None:
    resolved = decide(config={**CONFIG, "sliding_window": 4096})
    assert resolved.context == 4096
    assert "window" in reason(resolved, "context_length")
    assert decide(config={**CONFIG, "sliding_window": 4096, "use_sliding_window": False}).context == 40960


def test_eos_ids_of_both_files() -> None:
    config = parse_config(CONFIG, {"eos_token_id": [5, 151645]})
    assert config.eos_ids == (5, 151645)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": None}, "architecture"),
        ({"vocab_size": "x"}, "vocab_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"vocab_size": True}, "vocab_size"),
        ({"rope_scaling": 5}, "rope_scaling"),
    ],
)
def test_bad_configs(change: dict, says: str) -> None:
    with pytest.raises(StartupError, match=says):
        parse_config({**CONFIG, **change})


def test_parameters_are_counted_right() -> None:
    from ramify.models.registry import family_of

    for config in (parse_config(CONFIG), parse_config({**CONFIG, "tie_word_embeddings": False})):
        counted = 0
        for destination in family_of(config).layout(config).values():
            size = 1
            for extent in destination.shape:
                size *= extent
            counted += size
        assert config.parameters == pytest.approx(counted, rel=1e-4)


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.memory > 0
    assert machine.cores >= 1


def test_checking_a_model_needs_no_torch() -> None:
    """So that a bad one is refused in the first second."""
    from ramify.engine.build import prepare

    folder = shared("weights/TinyStories-656K")
    before = "torch" in sys.modules
    resolved = prepare(overlay(Settings(), {"model_path": str(folder)}, "test"))
    assert isinstance(resolved.model, ModelConfig)
    assert ("torch" in sys.modules) == before
