"""Rotation by positions of three numbers, as models that see images have it, against transformers' own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import all_logits, make_runner, relative_error
from models import SMALL
from safetensors.torch import save_file
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, Qwen2VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLTextRotaryEmbedding

from ramify.config.model import parse_config
from ramify.config.rope import read_ropes
from ramify.core.errors import StartupError
from ramify.layers.build import Build
from ramify.layers.rope import RotaryEmbedding
from ramify.models.registry import family_of
from ramify.ops.cpu.sdpa import SdpaAttention
from ramify.ops.kernels import Kernels
from ramify.quant.choose import unquantized

SIZE = 128  # of a head
RUNS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [16, 24, 24]}
TURNS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [24, 20, 20], "mrope_interleaved": True}


def rotary(rope: dict[str, Any]) -> RotaryEmbedding:
    kernels = Kernels()
    scheme = unquantized(kernels)
    build = Build(kernels, SdpaAttention(16), scheme, scheme, torch.float32, torch.device("cpu"), 4096)
    return RotaryEmbedding(build, SIZE, read_ropes({"rope_parameters": rope}, 4096)[0])


@pytest.mark.parametrize(
    ("rope", "config", "theirs"),
    [
        (RUNS, Qwen2VLTextConfig, Qwen2VLRotaryEmbedding),
        ({**RUNS, "mrope_section": [10, 30, 24]}, Qwen2VLTextConfig, Qwen2VLRotaryEmbedding),
        (TURNS, Qwen3VLTextConfig, Qwen3VLTextRotaryEmbedding),
        ({**TURNS, "mrope_section": [34, 20, 10]}, Qwen3VLTextConfig, Qwen3VLTextRotaryEmbedding),
    ],
    ids=["runs", "uneven runs", "turns", "uneven turns"],
)
def test_each_pair_turns_by_its_own_position(rope: dict[str, Any], config: Any, theirs: Any) -> None:
    made = config(hidden_size=4 * SIZE, num_attention_heads=4, head_dim=SIZE, rope_parameters=dict(rope))
    positions = torch.tensor([[0, 5, 5, 5, 9], [0, 5, 6, 7, 9], [3, 5, 1000, 8, 9]])
    cos, sin = theirs(made)(torch.zeros(1), positions[:, None])
    ours = rotary(rope)
    angles = ours(positions)
    assert torch.allclose(angles.cos_TR, cos[0, :, : SIZE // 2], atol=1e-6)
    assert torch.allclose(angles.sin_TR, sin[0, :, : SIZE // 2], atol=1e-6)
    text = ours(positions[0])
    assert torch.equal(text.cos_TR, ours(positions[:1].expand(3, -1)).cos_TR)
    assert not torch.equal(text.cos_TR, angles.cos_TR)


@pytest.mark.parametrize(
    ("architecture", "rope", "config", "reference"),
    [
        ("Qwen2ForCausalLM", {**RUNS, "mrope_section": [2, 3, 3]}, Qwen2VLTextConfig, Qwen2VLTextModel),
        ("Qwen3ForCausalLM", {**TURNS, "mrope_section": [4, 2, 2]}, Qwen3VLTextConfig, Qwen3VLTextModel),
    ],
)
def test_the_text_part_reads_text_as_it_does_among_images(
    tmp_path: Path, architecture: str, rope: dict[str, Any], config: Any, reference: Any
) -> None:
    """Saved by itself, with its sections."""
    torch.manual_seed(7)
    made = config(**SMALL, head_dim=16, rms_norm_eps=1e-6, rope_parameters=dict(rope))
    model = reference._from_config(made, dtype=torch.float32).eval()
    head = torch.randn(SMALL["vocab_size"], SMALL["hidden_size"])
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file({**tensors, "lm_head.weight": head}, tmp_path / "model.safetensors")
    raw = {**SMALL, "head_dim": 16, "rope_scaling": {**rope, "rope_type": "mrope"}, "architectures": [architecture]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    rnd = random.Random(1)
    tokens = [rnd.randrange(3, 211) for _ in range(60)]
    with torch.inference_mode():
        wanted = model(torch.tensor([tokens])).last_hidden_state[0] @ head.T
    assert relative_error(all_logits(make_runner(tmp_path), tokens, [40, 20]), wanted) < 1e-4


def test_sections_that_do_not_add_up() -> None:
    raw = {
        **SMALL,
        "architectures": ["Qwen2ForCausalLM"],
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 4]},
    }
    config = parse_config(raw)
    with pytest.raises(StartupError, match=r"\[2, 3, 4\] does not add up to the 8 pairs"):
        family_of(config).layout(config)
