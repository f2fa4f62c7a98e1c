"""The language models of larger ones, as transformers saves them, against the whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from harness import all_logits, make_runner, relative_error, tokens_of
from models import LLAMA4, SMALL
from transformers import AutoConfig, AutoModelForImageTextToText

from ramify.config.model import read_config
from ramify.config.read import overlay
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.engine.build import prepare

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
}
CLIP = {**VISION, "patch_size": 14, "model_type": "clip_vision_model"}
QWEN = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
LARGER = {
    "gemma3": {
        "text_config": {**SMALL, "head_dim": 16, "sliding_window": 24, "model_type": "gemma3_text"},
        "vision_config": {**VISION, "patch_size": 14, "model_type": "siglip_vision_model"},
    },
    "llama4": {
        "text_config": {**SMALL, **LLAMA4, "num_hidden_layers": 4},
        "vision_config": {
            **VISION,
            "patch_size": 14,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
    },
    "llava": {"text_config": {**SMALL, "model_type": "llama"}, "vision_config": CLIP},
    "mistral3": {
        "text_config": {**SMALL, "head_dim": 16, "sliding_window": None, "model_type": "mistral"},
        "vision_config": {**VISION, "patch_size": 14, "model_type": "pixtral"},
    },
    "qwen2_5_vl": {"text_config": {**SMALL, "rope_parameters": ROPE}, "vision_config": QWEN},
    "qwen3_vl": {
        "text_config": {**SMALL, "head_dim": 16, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        "vision_config": {**QWEN, "deepstack_visual_indexes": [0, 1]},
    },
}


@pytest.mark.parametrize("name", LARGER)
def test_the_language_model_of_a_larger_one(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **LARGER[name])
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    tokens = tokens_of(random.Random(1), 60, SMALL["vocab_size"])
    with torch.no_grad():
        theirs = whole(input_ids=torch.tensor([tokens])).logits[0]
    ours = all_logits(make_runner(tmp_path), tokens, [33, 27])
    assert relative_error(ours, theirs) < 1e-4
    settings = overlay(Settings(), {"model_path": str(tmp_path), "skip_tokenizer_init": True}, "test")
    said = {decision.name: decision.reason for decision in prepare(settings).decisions}
    assert "left out" in said["part"]


def test_a_part_that_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "opt"}}'
    )
    with pytest.raises(StartupError, match="'opt'"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    with pytest.raises(StartupError, match="has no text_config"):
        read_config(tmp_path)
