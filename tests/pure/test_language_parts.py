"""Names of the tensors of larger models, as different releases of transformers wrote them."""

from __future__ import annotations

import pytest

from ramify.config.parts import PART_OF, language_part, language_tensors

LAYER = "layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (f"language_model.model.{LAYER}", f"model.{LAYER}"),
        (f"model.language_model.{LAYER}", f"model.{LAYER}"),
        (f"model.language_model.model.{LAYER}", f"model.{LAYER}"),
        (f"model.{LAYER}", f"model.{LAYER}"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.language_modelling.weight", "model.language_modelling.weight"),
        ("vision_tower.vision_model.embeddings.patch_embedding.weight", None),
        ("model.vision_tower.layers.0.weight", None),
        ("multi_modal_projector.linear_1.bias", None),
        ("visual.blocks.0.attn.qkv.weight", None),
        ("model.visual.merger.mlp.0.weight", None),
        ("image_newline", None),
        ("visualizer.weight", "visualizer.weight"),
    ],
)
def test_names(theirs: str, ours: str | None) -> None:
    found = language_tensors({theirs: 0}, {PART_OF: "X"})
    assert found == ({} if ours is None else {theirs: ours})
    assert language_tensors({theirs: 0}, {}) == {theirs: theirs}


def test_what_the_whole_says_of_its_part() -> None:
    raw = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"hidden_size": 8, "tie_word_embeddings": False, "dtype": "float32"},
        "quantization_config": {"quant_method": "fp8"},
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    part = language_part(raw)
    assert part["architectures"] == ["Gemma3ForCausalLM"]
    assert (part["tie_word_embeddings"], part["dtype"], part["hidden_size"]) == (True, "float32", 8)
    assert part["quantization_config"] == {"quant_method": "fp8"}
    assert part[PART_OF] == "Gemma3ForConditionalGeneration"


def test_others_are_as_they_are() -> None:
    raw = {"architectures": ["LlamaForCausalLM"], "text_config": {}}
    assert language_part(raw) is raw
    assert language_part({"architectures": [3]}) == {"architectures": [3]}
    older = {"architectures": ["Qwen2VLForConditionalGeneration"], "hidden_size": 8}
    assert language_part(older)["hidden_size"] == 8
