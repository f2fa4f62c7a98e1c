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
from ramify.config.quantized import quantized_of
from ramify.config.read import PREFIX, from_environment, from_yaml, overlay, parse_bool, parse_int, unknown_variables
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import CacheSettings, ServerSettings, Settings, names, spellings
from ramify.config.stored import kv_bytes
from ramify.core.errors import StartupError, UsageError

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


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8,
    "original_max_position_embeddings": 64,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
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


@pytest.mark.parametrize("text", ["", "x", "1.5", "k", "1kk", "nan", "inf", "1e999", "1.0005k", "9" * 5000])
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
        "load_format": "dummy", "model_impl": "native",
        "dtype": "float32", "device": "cpu", "attention_backend": "reference",
        "linear_backend": "torch", "cuda_graph_bs": 7,
        "schedule_policy": "lpm", "log_level": "debug", "metrics_compat": "sglang", "host": "::1",
        "grammar_backend": "llguidance", "quantization": "w8a8", "kv_cache_dtype": "int8",
        "log_requests_level": 3, "log_requests_format": "json", "sampling_defaults": "openai",
        "lora_eviction_policy": "fifo",
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
        made = getattr(getattr(settings, room), name)
        return made[0] if isinstance(made, tuple) else made

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
    with pytest.raises(UsageError, match="one model is taken here"):
        parse(["a", "--model-path", "b"], "t")


@pytest.mark.parametrize(
    "text",
    ["- a\n", "port: [1]\n", "nope: 1\n", "port: x\n", "a: b: c\n", "port: 1.5\n", "port: .inf\n", "? [a]\n: 1\n"],
)
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


@pytest.mark.parametrize("text", ["port: 1\nport: 2\n", "tp: 1\ntp_size: 1\n", "page-size: 4\npage_size: 8\n"])
def test_a_key_given_twice(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(StartupError, match="given twice"):
        from_yaml(Settings(), str(path))


def test_a_file_of_any_size_is_refused_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(3)) + "port: [*b0, *b1]\n")
    with pytest.raises(StartupError) as error:
        from_yaml(Settings(), str(path))
    assert len(str(error.value)) < 400
    path.write_text("port: " + " " * (2 << 20) + "1\n")
    with pytest.raises(StartupError, match="larger than"):
        from_yaml(Settings(), str(path))


@pytest.mark.parametrize("spelling", spellings())
def test_every_spelling_of_a_flag_is_one_everywhere(spelling: str) -> None:
    name = spellings()[spelling]
    room, _ = names()[name]
    value = sample(name)

    def found(settings: Settings) -> object:
        made = getattr(getattr(settings, room), name)
        return made[0] if isinstance(made, tuple) else made

    assert found(overlay(Settings(), {spelling: value}, "test")) == value
    assert found(overlay(Settings(), {spelling.replace("_", "-"): value}, "test")) == value
    assert found(from_environment(Settings(), {PREFIX + spelling.upper(): str(value)})) == value


def test_a_setting_in_two_variables() -> None:
    with pytest.raises(StartupError, match="RAMIFY_TP_SIZE and RAMIFY_TP "):
        from_environment(Settings(), {"RAMIFY_TP": "1", "RAMIFY_TP_SIZE": "1"})


def test_an_error_names_the_setting_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("page-size: x\n")
    for said, ask in {
        r"RAMIFY_PAGE_SIZE: 'x' is not a whole number": lambda: from_environment(Settings(), {"RAMIFY_PAGE_SIZE": "x"}),
        r"--config .*c.yaml: page-size: 'x' is not": lambda: from_yaml(Settings(), str(path)),
        r"^--page_size: 'x' is not": lambda: parse(["--page_size", "x"], "test"),
        r"^RAMIFY_TP must be at least 1, got 0": lambda: from_environment(Settings(), {"RAMIFY_TP": "0"}),
    }.items():
        with pytest.raises(StartupError, match=said):
            ask()


def test_variables_that_are_no_settings_are_told() -> None:
    said = unknown_variables({"RAMIFY_PAGESIZE": "4", "RAMIFY_CONFIG": "x", "RAMIFY_TP": "1", "HOME": "/"})
    assert said == ["RAMIFY_PAGESIZE is in the environment and is no setting. Did you mean RAMIFY_PAGE_SIZE?"]


def test_settings_of_sglang_outside_the_command_line(caplog: pytest.LogCaptureFixture) -> None:
    for name, value, says in (
        ("quantization_param_path", "scales.json", "Scales are computed"),
        ("trust_remote_code", True, "never run"),
    ):
        with pytest.raises(StartupError, match=f"{name} is a setting of SGLang that ramify does not have") as error:
            overlay(Settings(), {name: value}, "Engine")
        assert says in error.value.remedy
        assert overlay(Settings(), {name: None}, "Engine") == Settings()
    assert overlay(Settings(), {"enable_mixed_chunk": True, "max-prefill-tokens": 9}, "Engine") == Settings()
    assert [r.getMessage().split(":")[1].strip() for r in caplog.records] == [
        "enable_mixed_chunk is not needed", "max-prefill-tokens is not needed",
    ]  # fmt: skip


def test_a_name_that_is_almost_one() -> None:
    with pytest.raises(StartupError, match="no setting 'pagesize'") as error:
        overlay(Settings(), {"pagesize": 1}, "test")
    assert error.value.remedy == "Did you mean page_size?"


# -- ranges ------------------------------------------------------------------------------------------------------------

NUMBERS = [name for name, (_, field) in names().items() if str(field.type).split()[0] in ("int", "float")]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range(name: str) -> None:
    room, field = names()[name]
    within = field.metadata["within"]
    assert field.default is None or within.refusal(field.default) is None
    for value in (within.least - 1, within.most * 2 + 1, float("inf"), float("-inf"), float("nan")):
        if value in within.beside:
            continue
        with pytest.raises(StartupError, match=name):
            overlay(Settings(), {name: value}, "test")
        with pytest.raises(StartupError):
            from_environment(Settings(), {PREFIX + name.upper(): str(value)})
        made = dataclasses.replace(getattr(Settings(), room), **{name: value})
        with pytest.raises(StartupError, match=f"--{name.replace('_', '-')} must be"):
            resolve(Settings(**{room: made}), parse_config(CONFIG), Path("/m"), Machine(16 * GIB, 8, False))
    for value in (within.least, *within.beside):
        assert overlay(Settings(), {name: value}, "test")


@pytest.mark.parametrize("name", ["api_key", "admin_api_key", "model_path"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_refused(name: str, empty: str) -> None:
    """It is an unset variable of somebody's script; as a key it would open the server to all."""
    with pytest.raises(StartupError, match="is empty"):
        parse([f"--{name.replace('_', '-')}", empty], "test")
    with pytest.raises(StartupError, match=f"RAMIFY_{name.upper()} is empty"):
        from_environment(Settings(), {f"RAMIFY_{name.upper()}": empty})


def test_an_empty_key_is_refused_however_it_came() -> None:
    with pytest.raises(StartupError, match="--api-key is empty"):
        decide_directly(server=ServerSettings(api_key=""))


def decide_directly(**rooms: object) -> Resolved:
    settings = Settings(**rooms)  # type: ignore[arg-type]
    return resolve(settings, parse_config(CONFIG), Path("/m"), Machine(16 * GIB, 8, False))


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says", "remedy"),
    [
        (["--pagesize", "4"], "no flag '--pagesize'", "--page-size"),
        (["--port"], "--port needs a value", "--port=VALUE"),
        (["--port", "--tp", "1"], "--port needs a value", ""),
        (["-x"], "no flag '-x'", ""),
        (["a", "b"], "one MODEL stands", "--model"),
    ],
)
def test_command_lines_that_cannot_be_read(arguments: list[str], says: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        parse(arguments, "test")
    assert remedy in error.value.remedy


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("attention-backend", "fa4", "torch_native"),
        ("schedule-policy", "hrrn", "fcfs"),
        ("log-level", "warn", "warning"),
        ("quantization", "w8a8_fp8", "w8a8"),
        ("quantization", "awq_marlin", "seen by itself"),
        ("quantization", "modelopt", "bf16"),
        ("dtype", "int8", "--quantization"),
        ("kv-cache-dtype", "fp8_e5m2", "int8"),
    ],
)
def test_values_of_sglang_are_answered(setting: str, value: str, remedy: str) -> None:
    with pytest.raises(StartupError, match=f"--{setting}: '{value}' is not one of") as error:
        parse([f"--{setting}", value], "test")
    assert remedy in error.value.remedy


def test_an_unknown_quantization_is_refused_with_the_list() -> None:
    with pytest.raises(StartupError, match="--quantization: 'w3' is not one of w8a8"):
        parse(["--quantization", "w3"], "test")
    assert parse(["--quantization", "none"], "test").model.quantization is None


def test_quantized_weights_are_counted_as_they_are_stored() -> None:
    plain, small = decide(dtype="bfloat16"), decide(dtype="bfloat16", quantization="w8a8_int8")
    assert (plain.quantization, small.quantization) == ("none", "w8a8")
    assert 0.5 < small.memory.weights / plain.memory.weights < 0.51
    smaller = decide(dtype="bfloat16", quantization="int4")
    assert smaller.memory.weights < 0.8 * small.memory.weights
    (said,) = [decision for decision in small.decisions if decision.name == "quantization"]
    assert "reference" in said.reason
    with pytest.raises(StartupError, match="140000 inputs"):
        decide(config={**CONFIG, "intermediate_size": 140_000}, quantization="w8a8")
    compiled = decide(Machine(16 * GIB, 8, False, kernels="avx2"), quantization="w8a8")
    assert "compiled kernels" in next(d.reason for d in compiled.decisions if d.name == "quantization")


def test_the_cache_is_counted_as_it_is_stored() -> None:
    """Qwen3-0.6B: 28 layers, 8 heads of 128; in int8 every row has a scale of 4 bytes."""
    rows = 2 * 28 * 8
    for asked, each in (("auto", 256), ("bf16", 256), ("bfloat16", 256), ("fp32", 512), ("int8", 132)):
        decided = decide(dtype="bfloat16", kv_cache_dtype=asked, max_total_tokens=1024)
        assert decided.memory.bytes_per_token == rows * each
        assert decided.memory.pool == 1024 * rows * each
        assert decided.kv_dtype == {"int8": "int8", "fp32": "float32"}.get(asked, "bfloat16")


def test_switches_take_no_value_unless_with_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse(["--disable-radix-cache", "model"], "test")
    assert (settings.cache.disable_radix_cache, settings.model.model_path) == (True, "model")
    monkeypatch.setenv("RAMIFY_DISABLE_RADIX_CACHE", "1")
    assert not parse(["--disable-radix-cache=false"], "test").cache.disable_radix_cache


def test_the_last_flag_counts_and_values_may_be_negative() -> None:
    settings = parse(["--port", "1", "--port=2", "--chunked-prefill-size", "-1", "--", "--odd-name"], "test")
    assert settings.server.port == 2
    assert settings.schedule.chunked_prefill_size == -1
    assert settings.model.model_path == "--odd-name"


def test_help_is_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        parse(["--help"], "ramify serve")
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert "None" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    for name, (_, field) in names().items():
        (said,) = [entry for entry in text.split("\n  --") if entry.split()[0] == name.replace("_", "-")]
        assert said.count("Default:") <= 1
        assert field.metadata["help"].split()[-1] in said


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


def test_a_small_pool_that_was_asked_for_is_given() -> None:
    assert decide(max_total_tokens=64).memory.pool_tokens == 64
    with pytest.raises(StartupError, match="--max-total-tokens 8 is less than one page of 16"):
        decide(max_total_tokens=8)


def test_a_reason_says_where_a_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("page_size: 8\nschedule_policy: lpm\n")
    monkeypatch.setenv("RAMIFY_MAX_RUNNING_REQUESTS", "4")
    line = ["m", "--config", str(path), "--disable-radix-cache", "--api-key", "secret", "--max-total-tokens", "1001"]
    decided = resolve(parse(line, "t"), parse_config(CONFIG), Path("/m"), Machine(16 * GIB, 8, False))
    assert reason(decided, "page_size") == reason(decided, "schedule_policy") == f"the file {path}"
    assert reason(decided, "max_running_requests") == "environment RAMIFY_MAX_RUNNING_REQUESTS"
    assert reason(decided, "disable_radix_cache") == "flag"
    assert reason(decided, "max_total_tokens") == "flag, in whole pages"
    assert reason(decided, "model") == "argument"
    assert "secret" not in str(decided.decisions)
    assert reason(decide_directly(cache=CacheSettings(page_size=8)), "page_size") == "as asked"


def test_a_pool_that_cannot_be_is_refused_with_numbers() -> None:
    with pytest.raises(StartupError, match="does not fit"):
        decide(Machine(3 * GIB, 2, False))
    with pytest.raises(StartupError, match="At most about"):
        decide(max_total_tokens=10**9)


WINDOWED = {**CONFIG, "sliding_window": 4096, "use_sliding_window": True}


def test_windows() -> None:
    """Of all layers, of the upper ones, of those that are named; a window that holds everything is none."""

    def windowed(**more: object) -> tuple[int | None, int]:
        config = parse_config({**WINDOWED, **more})
        return config.window, sum(config.windowed)

    assert windowed() == (4096, 28)
    assert windowed(max_window_layers=20) == (4096, 8)
    assert windowed(max_window_layers=28) == (None, 0)
    assert windowed(layer_types=["sliding_attention", "full_attention"] * 14) == (4096, 14)
    assert windowed(use_sliding_window=False) == (None, 0)
    assert windowed(sliding_window=40960) == (None, 0)
    assert decide(config=WINDOWED).context == 40960
    config = parse_config({**WINDOWED, "max_window_layers": 20})
    assert (config.window_of(19), config.window_of(20)) == (None, 4096)


def test_what_another_family_has_alternates() -> None:
    gemma = {**CONFIG, "architectures": ["Gemma2ForCausalLM"]}
    assert parse_config(gemma).windowed[:4] == (True, False, True, False)
    gemma3 = parse_config({**CONFIG, "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 3})
    assert gemma3.windowed[:4] == (True, True, False, True)
    assert (gemma3.rope_of(0).theta, gemma3.rope_of(2).theta) == (10_000.0, 1_000_000.0)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_logit_softcapping": 50.0},
        {"residual_multiplier": 0.2},
        {"no_rope_layers": [1] * 28},
        {"partial_rotary_factor": 0.5},
        {"num_experts": 8, "num_experts_per_tok": 2},
        {"clip_qkv": 8},
        {"kv_lora_rank": 512},
    ],
    ids=str,
)
def test_what_changes_the_arithmetic_unseen_is_refused_by_name(change: dict) -> None:
    with pytest.raises(StartupError, match=next(iter(change))):
        parse_config({**CONFIG, **change})


def test_what_changes_nothing_is_let_pass() -> None:
    parse_config({**CONFIG, "residual_multiplier": 1.0, "attn_logit_softcapping": None, "use_qk_norm": False})


def test_a_window_where_transformers_has_none() -> None:
    llama = {**CONFIG, "architectures": ["LlamaForCausalLM"], "sliding_window": 4096}
    with pytest.raises(StartupError, match="sliding_window 4096"):
        parse_config(llama)


def test_experts_and_latents() -> None:
    raw = {
        **CONFIG,
        "architectures": ["DeepseekV3ForCausalLM"],
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 100,
        "n_shared_experts": 2,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "num_key_value_heads": 16,
    }
    config = parse_config(raw)
    assert config.experts is not None
    assert (config.experts.count, config.experts.chosen, config.experts.shared) == (64, 6, 200)
    assert config.experts.sparse == (False,) * 3 + (True,) * 25
    assert config.kept == (1, 576, 0)
    assert kv_bytes(config, "bfloat16") == 28 * 576 * 2
    with pytest.raises(StartupError, match="num_experts_per_tok 65"):
        parse_config({**raw, "num_experts_per_tok": 65})


LLAMA4 = {
    "architectures": ["Llama4ForCausalLM"],
    "hidden_size": 512,
    "vocab_size": 1000,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "no_rope_layers": [],
}


def test_llama_4() -> None:
    """What rotates sees chunks; every second layer may have experts; the sizes have names of their own."""
    config = parse_config(LLAMA4)
    assert [config.chunk_of(layer) for layer in range(4)] == [8192, 8192, 8192, None]
    assert (config.mlp, config.head_dim, config.numbers["attn_temperature_tuning"]) == (16384, 128, True)
    assert config.experts is not None
    assert (config.experts.count, config.experts.chosen, config.experts.mlp, config.experts.shared) == (
        16,
        1,
        8192,
        8192,
    )
    assert parse_config({**LLAMA4, "max_position_embeddings": 8192}).chunk_of(0) is None

    def sparse(**more: object) -> tuple[bool, ...]:
        experts = parse_config({**LLAMA4, **more}).experts
        assert experts is not None
        return experts.sparse

    assert sparse() == (True,) * 8
    assert sparse(interleave_moe_layer_step=2) == (False, True) * 4
    assert sparse(interleave_moe_layer_step=2, moe_layers=[0, 5]) == (True, *(False,) * 4, True, False, False)
    kinds = ["full_attention"] * 7 + ["chunked_attention"]
    assert parse_config({**LLAMA4, "layer_types": kinds}).chunked == (False,) * 7 + (True,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention_chunk_size": None}, "attention_chunk_size"),
        ({"attention_chunk_size": 0}, "attention_chunk_size"),
        ({"layer_types": ["sliding_attention"] * 8}, "sliding_attention"),
        ({"sliding_window": 100}, "sliding_window"),
        ({"no_rope_layers": [1]}, "no_rope_layers"),
        ({"floor_scale": 0.5}, "floor_scale"),
        ({"attn_temperature_tuning": "yes"}, "attn_temperature_tuning"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "use_qk_norm"),
    ],
)
def test_llama_4_that_is_not_known(change: dict, says: str) -> None:
    from ramify.models.registry import family_of

    def laid_out(raw: dict) -> None:
        family_of(config := parse_config(raw)).layout(config)

    laid_out(LLAMA4)
    with pytest.raises(StartupError, match=says):
        laid_out({**LLAMA4, **change})


def test_yarn_reaches_beyond_what_was_trained() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = parse_config({**CONFIG, "max_position_embeddings": 32768, "rope_scaling": yarn})
    assert config.context == 131072


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
        ({"num_key_value_heads": 3}, "num_attention_heads 16 is not a multiple of num_key_value_heads 3"),
        ({"vocab_size": True}, "vocab_size"),
        ({"rope_scaling": 5}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 4}}, "rope_scaling of the type 'spiral'"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_parameters of the type 'spiral'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": -1}}, r"rope_scaling\.factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1]}}, r"rope_scaling\.long_factor"),
        ({"rope_parameters": {"full_attention": 5}}, r"rope_parameters\.full_attention"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}}, r"rope_scaling\.mrope_section"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, -8]}}, r"rope_scaling\.mrope_section"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 2.5]}}, r"rope_scaling\.mrope_section"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": ["linear"]}}, "rope_scaling"),
        ({"rope_scaling": {"factor": 2}}, "no rope_type"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, r"rope_scaling\.factor"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, r"rope_scaling\.factor"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 0}}, r"rope_scaling\.low_freq_factor"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1}}, "high_freq_factor"),
        ({"rope_theta": "many"}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": -5}}, "rope_theta"),
        ({"hidden_act": "xielu"}, "hidden_act 'xielu' is not supported"),
        ({"layer_types": ["linear_attention"] * 28}, "linear_attention"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 28, "sliding_window": None}, "sliding_window"),
        ({"hidden_act": None}, "hidden_act"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": True}, "rms_norm_eps"),
        ({"eos_token_id": 151936}, r"^config\.json: eos_token_id 151936"),
        ({"eos_token_id": [3, "</s>"]}, "eos_token_id '</s>'"),
        ({"head_dim": None, "hidden_size": 1023}, "hidden_size 1023"),
        ({"head_dim": 33}, "head_dim"),
        ({"head_dim": 0}, "head_dim"),
        ({"intermediate_size": 1.5}, "intermediate_size"),
        ({"max_position_embeddings": -3}, "max_position_embeddings"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"sliding_window": "wide", "use_sliding_window": True}, "sliding_window"),
    ],
)
def test_bad_configs(change: dict, says: str) -> None:
    with pytest.raises(StartupError, match=says):
        parse_config({**CONFIG, **change})


def test_an_eos_id_of_the_generation_config_beyond_the_vocabulary() -> None:
    with pytest.raises(StartupError, match=r"generation_config\.json: eos_token_id 200000"):
        parse_config(CONFIG, {"eos_token_id": [5, 200_000]})


def test_numbers_that_configs_leave_out_or_null() -> None:
    config = parse_config({**CONFIG, "rms_norm_eps": None, "eos_token_id": None, "rope_theta": None, "head_dim": None})
    assert (config.norm_eps, config.eos_ids, config.rope.theta, config.head_dim) == (1e-6, (), 10_000.0, 64)
    assert parse_config({**CONFIG, "rope_scaling": LLAMA3}).rope.scaling["factor"] == 8.0


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


def test_who_multiplies() -> None:
    compiled, plain = Machine(16 * GIB, 8, False, kernels="avx2"), Machine(16 * GIB, 8, False)
    assert decide(compiled).linears == "packed"
    assert decide(plain, linear_backend="torch").linears == "torch"
    resolved = decide(compiled, linear_backend="torch")
    assert resolved.linears == "torch"
    said = {d.name: d for d in resolved.decisions}
    assert said["batch_invariance"].value == "no"
    assert "linears" in said["batch_invariance"].reason
    with pytest.raises(StartupError, match="no kernels are compiled here"):
        decide(plain, linear_backend="packed")
    with pytest.raises(StartupError, match="does not multiply with w8a8"):
        decide(compiled, linear_backend="torch", quantization="w8a8")


def test_the_named_breach_of_arithmetic_names_its_causes() -> None:
    def said(machine: Machine, attention: str) -> tuple[object, str]:
        decisions = decide(machine, {**CONFIG, "torch_dtype": "float32"}, attention_backend=attention).decisions
        return next((d.value, d.reason) for d in decisions if d.name == "batch_invariance")

    plain, compiled = Machine(16 * GIB, 8, False), Machine(16 * GIB, 8, False, kernels="avx2")
    assert said(compiled, "cpu")[0] == "yes"
    for attention in ("reference", "torch_native"):
        value, reason = said(plain, attention)
        assert (value, "linears and attention" in reason) == ("no", True)
        value, reason = said(compiled, attention)
        assert (value, "linears" in reason, "attention" in reason) == ("no", False, True)


# -- layers that keep a state ------------------------------------------------------------------------------------------

HYBRID = {
    **CONFIG,
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "layer_types": ["mamba"] * 24 + ["attention"] * 4,
    "mamba_n_heads": 64,
    "mamba_d_state": 128,
    "num_local_experts": 0,
    "shared_intermediate_size": 3072,
}
MAMBA = {
    "num_heads": 32,
    "torch_dtype": "bfloat16",
    "architectures": ["Mamba2ForCausalLM"],
    "vocab_size": 50288,
    "hidden_size": 1024,
    "num_hidden_layers": 48,
}


def test_what_a_state_takes() -> None:
    """24 layers: 64 heads of 32 x 128 in float32, and 3 inputs of a convolution over 64 x 32 + 2 x 128 channels."""
    found = decide(config=HYBRID)
    assert found.memory.state_bytes == 24 * (64 * 32 * 128 * 4 + 3 * (64 * 32 + 2 * 128) * 4)
    assert found.memory.bytes_per_token == 4 * 2 * 8 * 128 * 4
    assert found.memory.state_slots >= 3 * found.rows
    assert found.memory.pool + found.memory.weights < 0.7 * 16 * GIB
    few = decide(config=HYBRID, max_mamba_cache_size=5)
    assert few.memory.state_slots == 5
    assert few.memory.pool_tokens >= found.memory.pool_tokens
    assert [d.reason for d in few.decisions if d.name == "max_mamba_cache_size"] == ["test, 24.63 MiB each"]


def test_a_model_that_keeps_nothing_but_states() -> None:
    found = decide(config=MAMBA)
    assert (found.model.attending, found.memory.bytes_per_token) == (0, 0)
    assert found.memory.pool_tokens == found.rows * found.context
    assert found.memory.pool == found.memory.state_slots * found.memory.state_bytes


def test_states_that_do_not_fit() -> None:
    """200 MiB a request beside 1.4 GiB of weights."""
    many = {**MAMBA, "state_size": 512}
    with pytest.raises(StartupError, match=r"the state of a request is 0\.\d+ GiB"):
        decide(Machine(int(3.3 * GIB), 8, True), config=many)
    few = decide(Machine(5 * GIB, 8, True), config=many)
    (reason,) = [d.reason for d in few.decisions if d.name == "max_mamba_cache_size"]
    assert 2 <= few.memory.state_slots < few.rows
    assert "so that fewer than 32 requests run at once" in reason


def test_which_layers_keep_a_state() -> None:
    config = parse_config(HYBRID)
    assert [config.is_recurrent(layer) for layer in (0, 23, 24)] == [True, True, False]
    config = parse_config({**CONFIG, "architectures": ["Qwen3NextForCausalLM"]})
    assert [config.is_recurrent(layer) for layer in range(5)] == [True, True, True, False, True]
    assert config.attending == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer_types": ["mamba", "moe"] * 14}, "layer_types has 'moe'"),
        ({"time_step_limit": [0.1]}, "time_step_limit"),
        ({"time_step_limit": [2, 1]}, "time_step_limit"),
        ({"mamba_n_groups": 3}, "not a multiple of their 3 groups"),
        ({"mamba_d_state": 0}, "state_key"),
        ({"sliding_window": 64}, "has no windows here"),
    ],
    ids=str,
)
def test_states_that_cannot_be(change: dict, says: str) -> None:
    with pytest.raises(StartupError, match=says):
        parse_config({**HYBRID, **change})


# -- quantized checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "float"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 8}}}}, "int8"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"a": {"weights": {"num_bits": 4, "group_size": 128, "symmetric": True}}},
            },
            "int4",
        ),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, "int4"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128, "sym": True}, "float"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4 with offsets"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    ],
)
def test_what_a_quantized_checkpoint_is_computed_as(given: dict, stored: str) -> None:
    found = decide(Machine(16 * GIB, 8, False, kernels="avx2"), config={**CONFIG, "quantization_config": given})
    assert (found.quantization, found.dtype) == (given["quant_method"], "bfloat16")
    (said,) = [decision for decision in found.decisions if decision.name == "quantization"]
    assert {"float": "dequantized", "int8": "int8", "int4": "four bits"}[stored.split()[0]] in said.reason
    plain = decide(dtype="bfloat16").memory.weights
    linears = {"float": 1, "int8": 0.5, "int4": 0.29, "int4 with offsets": 0.32}[stored]
    vocabulary = 2 * CONFIG["vocab_size"] * CONFIG["hidden_size"] * (1 if CONFIG.get("tie_word_embeddings") else 2)
    assert found.memory.weights == pytest.approx(vocabulary + (plain - vocabulary) * linears, rel=0.02)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"quant_method": "aqlm"}, "quant_method 'aqlm'"),
        ({"quant_method": ["fp8"]}, "quant_method"),
        ({}, "quant_method 'None'"),
        ("fp8", "should be an object"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt 'e5m2'"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": [128, -1]}, "weight_block_size"),
        ({"quant_method": "fp8", "ignored_layers": "lm_head"}, "ignored_layers"),
        ({"quant_method": "fp8", "ignored_layers": ["re:(("]}, "pattern"),
        ({"quant_method": "gptq", "bits": 3}, "bits 3"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"quant_method": "awq", "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "bitsandbytes"}, "neither"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24"}}, "sparsity_config"),
        ({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {}}}, "transform_config"),
    ],
    ids=str,
)
def test_quantized_checkpoints_that_cannot_be_read(given: object, named: str) -> None:
    with pytest.raises(StartupError) as error:
        decide(config={**CONFIG, "quantization_config": given})
    assert named in str(error.value)


def test_modules_that_are_left_out() -> None:
    patterns = ["lm_head", "re:.*self_attn.*", "model.layers.*.router", "model.layers.1", "gate"]
    found = quantized_of({"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": patterns}})
    assert found is not None
    left_out = ["lm_head", "model.layers.0.self_attn.q_proj", "model.layers.7.router", "model.layers.1.mlp.up_proj"]
    assert all(map(found.ignores, [*left_out, "model.layers.0.mlp.gate"]))
    assert not any(map(found.ignores, ["model.layers.0.mlp.gate_proj", "model.layers.11.mlp.up_proj", "my_lm_head"]))


def test_a_format_that_a_checkpoint_does_not_have() -> None:
    with pytest.raises(StartupError, match="its config\\.json says none"):
        decide(quantization="awq")
