"""What an `adapter_config.json` may say, and what is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ramify.adapters.config import MAX_ALPHA, MAX_RANK, PeftConfig, read_config
from ramify.core.errors import BadRequest

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
Q3, O3 = "model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.o_proj"


def config(**more: Any) -> PeftConfig:
    return read_config(json.dumps({**PLAIN, **more}).encode())


def refused(raw: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as e:
        read_config(raw)
    return e.value


def test_the_scale_of_an_adapter() -> None:
    assert config().scale_of(Q3) == 2.0
    assert config(use_rslora=True).scale_of(Q3) == 16 / math.sqrt(8)
    assert config(lora_alpha=0.5).scale_of(Q3) == 0.0625


def test_ranks_and_alphas_by_pattern() -> None:
    made = config(
        rank_pattern={"o_proj": 4, r"layers\.3\.self_attn\.q_proj": 2, "q_proj": 3}, alpha_pattern={"^model.*q_proj": 6}
    )
    assert (made.rank_of(Q3), made.scale_of(Q3)) == (2, 3.0)  # the first that matches
    assert (made.rank_of(O3), made.scale_of(O3)) == (4, 4.0)
    assert made.rank_of("model.layers.2.self_attn.q_proj") == 3
    assert made.rank_of("model.layers.2.self_attn.k_proj") == 8
    assert made.rank_of("model.layers.2.self_attn.q_proj.more") == 8


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [True, False]),
        ({"target_modules": "all-linear"}, [True, True]),
        ({"target_modules": None}, [True, True]),
        ({"target_modules": r".*\.self_attn\.o_proj"}, [False, True]),
        ({"target_modules": r"o_proj"}, [False, False]),  # the whole name, or nothing
        ({"target_modules": ["layers.3.self_attn.q_proj"]}, [True, False]),
        ({"target_modules": ["proj"]}, [False, False]),
        ({"target_modules": "all-linear", "exclude_modules": ["o_proj"]}, [True, False]),
        ({"target_modules": "all-linear", "exclude_modules": ".*q_proj"}, [False, True]),
        ({"layers_to_transform": 3}, [True, False]),
        ({"layers_to_transform": [1, 2]}, [False, False]),
        ({"layers_to_transform": [3], "layers_pattern": "layers"}, [True, False]),
        ({"layers_to_transform": [3], "layers_pattern": ["h", "blocks"]}, [False, False]),
        ({"layers_to_transform": []}, [True, False]),
    ],
)
def test_which_modules_it_adapts(more: dict[str, Any], expected: list[bool]) -> None:
    made = config(**more)
    assert [made.adapts(Q3), made.adapts(O3)] == expected


def test_the_layer_is_the_first_number() -> None:
    made = config(layers_to_transform=[3], target_modules=["gate_proj"])
    assert made.adapts("model.layers.3.mlp.experts.5.gate_proj")
    assert not made.adapts("model.layers.5.mlp.experts.3.gate_proj")


@pytest.mark.parametrize(
    "more",
    [
        {"fan_in_fan_out": True},
        {"inference_mode": True, "lora_dropout": 0.1, "init_lora_weights": "pissa", "task_type": "CAUSAL_LM"},
        {"loftq_config": {}, "eva_config": None, "megatron_core": "megatron.core", "base_model_name_or_path": "a/b"},
        {"use_dora": False, "layer_replication": None, "trainable_token_indices": None, "target_parameters": []},
        {"modules_to_save": ["lm_head"], "peft_version": "0.21.2", "ensure_weight_tying": False},
    ],
)
def test_what_makes_no_difference(more: dict[str, Any]) -> None:
    assert config(**more).r == 8


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": "experts.gate_up_proj"}, "target_parameters"),
        ({"trainable_token_indices": [-1]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"embed_tokens": 5}}, "trainable_token_indices"),
        ({"bias": "all"}, "bias"),
        ({"bias": "lora_only"}, "bias"),
        ({"what_is_this": 1}, "what_is_this"),
        ({"r": 0}, "r"),
        ({"r": -1}, "r"),
        ({"r": MAX_RANK + 1}, "r"),
        ({"r": 10**30}, "r"),
        ({"r": "8"}, "r"),
        ({"r": True}, "r"),
        ({"r": 8.5}, "r"),
        ({"r": None}, "r"),
        ({"lora_alpha": "big"}, "lora_alpha"),
        ({"lora_alpha": MAX_ALPHA * 2}, "lora_alpha"),
        ({"lora_alpha": [1]}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 1e300}}, "alpha_pattern"),
        ({"target_modules": [1]}, "target_modules"),
        ({"target_modules": [""]}, "target_modules"),
        ({"layers_to_transform": [-1]}, "layers_to_transform"),
        ({"modules_to_save": "lm_head"}, "modules_to_save"),
    ],
)
def test_what_is_refused(more: dict[str, Any], field: str) -> None:
    error = refused(json.dumps({**PLAIN, **more}).encode())
    assert field in error.message
    assert "adapter_config.json" in error.message


@pytest.mark.parametrize("field", ["r", "lora_alpha", "peft_type"])
def test_what_is_missing(field: str) -> None:
    assert field in refused(json.dumps({k: v for k, v in PLAIN.items() if k != field}).encode()).message


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"r": NaN}', b"[" * 100_000, b'{"lora_alpha": Infinity}']
)
def test_what_is_no_object(raw: bytes) -> None:
    assert "damaged" in refused(raw).message


@pytest.mark.parametrize("pattern", ["(", "(?=a)q", "(a" * 100, "(x{1000}){1000}", r"(\w)\1"])
@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern", "layers_pattern"])
def test_patterns_that_cannot_be_used(field: str, pattern: str) -> None:
    value: Any = {pattern: 4} if field == "rank_pattern" else pattern
    assert "cannot be used" in refused(json.dumps({**PLAIN, field: value}).encode()).message


def test_a_pattern_is_matched_in_linear_time() -> None:
    made = config(target_modules="(a+)+b", rank_pattern={"(a+)+$": 3})
    assert not made.adapts("a" * 5000)
    assert made.rank_of("a" * 5000 + "b") == 8
