"""Tiny models of every family, made by transformers with random weights and saved as it saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL = {
    "vocab_size": 211,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500000.0,
}

# name -> (model type, changes to SMALL)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"num_key_value_heads": 4}),
    "llama3": ("llama", {"rope_theta": 500000.0}),
    "llama3.1": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama3.2-tied": ("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2.5-tied": ("qwen2", {"tie_word_embeddings": True, "rope_theta": 1000000.0}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3-tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
}


def make(name: str) -> PreTrainedModel:
    """The reference: fp32, random weights, biases and norms that are not trivial."""
    kind, changes = FAMILIES[name]
    config = AutoConfig.for_model(kind, **{**SMALL, **changes})
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save(name: str, folder: Path, **how: Any) -> PreTrainedModel:
    """Make a model and save it; returns the reference."""
    model = make(name)
    model.save_pretrained(folder, **how)
    return model


def reference_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Logits at every position, [tokens, vocab]."""
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float()
