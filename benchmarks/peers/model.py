"""Writes a checkpoint of Qwen3-0.6B's shape with random weights: python model.py FOLDER

Every peer computes this model. Speed does not depend on what the weights say, and nothing has to be downloaded. The
tokenizer is the bundled model's: prompts and outputs are token ids, but some peers refuse a folder without one. Its
vocabulary is smaller than the model's, which keeps Qwen3's 151,936.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import ramify

SEED = 20261121
SHAPE = Qwen3Config(
    vocab_size=151_936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40_960,
    rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    tie_word_embeddings=True,
    eos_token_id=151_645,
    bos_token_id=151_643,
    dtype="bfloat16",
)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write(folder: Path) -> None:
    """The folder appears when all is in it."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    torch.manual_seed(SEED)
    Qwen3ForCausalLM(SHAPE).to(torch.bfloat16).save_pretrained(unfinished)
    for name in TOKENIZER:
        shutil.copy(Path(ramify.__file__).parent / "bundled/concierge" / name, unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
