"""Tiny models of every family, made by transformers with random weights and saved as it saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

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
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 4.0, 6.0, 8.0],
    "partial_rotary_factor": 0.75,
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "logits_scaling": 4.0,
}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512, "tie_word_embeddings": True}
SLIDING, FULL = "sliding_attention", "full_attention"
MOE = {"moe_intermediate_size": 48, "num_experts_per_tok": 2}
LLAMA4 = {
    "head_dim": 16,
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "num_local_experts": 8,
    "attention_chunk_size": 24,
    "floor_scale": 16,
    "attn_scale": 0.5,
}
MLA = {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
    **MOE,
}

MAMBA2 = {
    "num_heads": 8,
    "head_dim": 16,
    "state_size": 16,
    "n_groups": 2,
    "chunk_size": 32,
    "expand": 2,
}
MIXER = {"mamba_n_heads": 8, "mamba_d_state": 24}
GRANITE4 = {
    **MIXER,
    "layer_types": ["linear_attention", FULL, "linear_attention"],
    "shared_intermediate_size": 80,
}
DELTA = {
    "initializer_range": 0.08,  # of wilder weights, transformers' own two ways to compute a delta rule differ by 1e-4
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 16,
}

# name -> (model type, changes to SMALL): a family is a row
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"num_key_value_heads": 4}),
    "llama3": ("llama", {"rope_theta": 500000.0}),
    "llama3.1": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama3.2-tied": ("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama-dynamic-rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    "llama-gelu": ("llama", {"hidden_act": "gelu"}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "mistral-window": ("mistral", {"sliding_window": 24, "head_dim": 16}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "layer_types": None},
    ),
    "qwen2.5-tied": ("qwen2", {"tie_word_embeddings": True, "rope_theta": 1000000.0}),
    "qwen2.5-yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3-tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": None, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"num_hidden_layers": 4, "sliding_window": 24}),
    "olmo3-yarn": (
        "olmo3",
        {
            "layer_types": [SLIDING, FULL, SLIDING],
            "sliding_window": 24,
            "rope_parameters": {FULL: YARN, SLIDING: {"rope_type": "default", "rope_theta": 1e4}},
        },
    ),
    "granite": ("granite", GRANITE),
    "phi3": ("phi3", {}),
    "phi3-window": ("phi3", {"sliding_window": 31}),
    "phi4-mini": (
        "phi3",
        {"tie_word_embeddings": True, "rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
    ),
    "glm": ("glm", {"head_dim": 16}),
    "glm4": ("glm4", {"head_dim": 16, "attention_bias": True}),
    "command-r": ("cohere", {"tie_word_embeddings": True}),
    "command-r+": ("cohere", {"tie_word_embeddings": True, "use_qk_norm": True, "logit_scale": 0.5}),
    "command-r7b": (
        "cohere2",
        {"tie_word_embeddings": True, "head_dim": 16, "sliding_window": 24, "num_hidden_layers": 4},
    ),
    "gpt2": ("gpt2", GPT2),
    "gemma": ("gemma", {"head_dim": 32, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "tie_word_embeddings": True,
            "sliding_window": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 24,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 16, "tie_word_embeddings": True, "sliding_window": 24, "num_hidden_layers": 7},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen2-moe": ("qwen2_moe", {**MOE, "num_experts": 6, "shared_expert_intermediate_size": 80}),
    "qwen3-moe": ("qwen3_moe", {**MOE, "num_local_experts": 8, "norm_topk_prob": True, "mlp_only_layers": [1]}),
    "gpt-oss": ("gpt_oss", {"num_local_experts": 8, "num_experts_per_tok": 3, "sliding_window": 24, "head_dim": 16}),
    "llama4": ("llama4_text", {**LLAMA4, "num_hidden_layers": 4}),
    "llama4-dense": (
        "llama4_text",
        {
            **LLAMA4,
            "num_hidden_layers": 5,
            "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 0, 1, 0, 1],
            "num_experts_per_tok": 2,
            "use_qk_norm": False,
            "attention_bias": True,
            "rope_parameters": LLAMA3_ROPE,
        },
    ),
    "granite-moe": ("granitemoe", {**GRANITE, "num_local_experts": 8}),
    "glm4.5": ("glm4_moe", {**MOE, "n_routed_experts": 8, "use_qk_norm": True, "attention_bias": True}),
    "deepseek-v2": (
        "deepseek_v2",
        {**MLA, "q_lora_rank": 24, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    ),
    "deepseek-v2-lite": ("deepseek_v2", {**MLA, "q_lora_rank": None, "routed_scaling_factor": 2.0}),
    "deepseek-v3": (
        "deepseek_v3",
        {
            **MLA,
            "q_lora_rank": 24,
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    "granite4": (
        "granitemoehybrid",
        {**GRANITE, **GRANITE4, "num_local_experts": 0, "position_embedding_type": "rope"},
    ),
    "granite4-moe": (
        "granitemoehybrid",
        {**GRANITE, **GRANITE4, "num_local_experts": 8, "mamba_n_groups": 4, "mamba_proj_bias": True},
    ),
    "bamba": ("bamba", {**MIXER, "attn_layer_indices": [1], "mamba_conv_bias": False}),
    "qwen3-next": ("qwen3_next", {**MOE, **DELTA, "num_experts": 6, "shared_expert_intermediate_size": 80}),
    "qwen3-next-dense": (
        "qwen3_next",
        {
            **MOE,
            **DELTA,
            "num_experts": 6,
            "mlp_only_layers": [0, 1, 2],
            "attention_bias": True,
            "num_hidden_layers": 5,
        },
    ),
    "mamba2": ("mamba2", MAMBA2),
    "mamba2-tied": (
        "mamba2",
        {**MAMBA2, "n_groups": 1, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True},
    ),
}

# Computed by transformers' code: a row is all that a model needs there
GENERIC: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": (
        "afmoe",
        {
            "head_dim": 16,
            "num_hidden_layers": 4,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "sliding_window": 24,
        },
    ),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {"head_dim": 20}),
    "cwm": ("cwm", {"head_dim": 16, "sliding_window": 24}),
    "ernie4.5": ("ernie4_5", {"head_dim": 16}),
    "exaone4": ("exaone4", {"sliding_window": 24, "num_hidden_layers": 4}),
    "gpt-bigcode": ("gpt_bigcode", {**GPT2, "n_inner": 96}),
    "helium": ("helium", {"head_dim": 16}),
    "hunyuan": ("hunyuan_v1_dense", {"head_dim": 16}),
    "minicpm3": (
        "minicpm3",
        {
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
            "num_key_value_heads": 4,
        },
    ),
    "ministral3": ("ministral3", {"head_dim": 16}),
    "nemotron": ("nemotron", {"tie_word_embeddings": True}),
    "olmo": ("olmo", {"clip_qkv": 2.0}),
    "olmoe": ("olmoe", {"num_experts": 8, "num_experts_per_tok": 2}),
    "opt": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 32, "tie_word_embeddings": True}),
    "persimmon": ("persimmon", {}),
    "phi2": ("phi", {"qk_layernorm": True}),
    "phimoe": ("phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "pythia": ("gpt_neox", {}),
    "seed-oss": ("seed_oss", {"head_dim": 16}),
    "starcoder2": ("starcoder2", {"sliding_window": 24}),
    "bitnet": ("bitnet", {}),
    "ctrl": ("ctrl", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512, "dff": 96}),
    "ernie4.5-moe": (
        "ernie4_5_moe",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 48, "head_dim": 16},
    ),
    "exaone-moe": ("exaone_moe", {"head_dim": 16}),
    "flex-olmo": ("flex_olmo", {"num_experts": 4, "num_experts_per_tok": 2}),
    "glm4-moe-lite": ("glm4_moe_lite", {**MLA, "q_lora_rank": 24, "n_group": 1, "topk_group": 1}),
    "hunyuan-moe": ("hunyuan_v1_moe", {"head_dim": 16, "num_experts": 4, "moe_topk": 2}),
    "hyperclovax": ("hyperclovax", {"head_dim": 16}),
    "jais2": ("jais2", {"head_dim": 16}),
    "mellum": ("mellum", {}),
    "minimax-m2": ("minimax_m2", {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "ministral": ("ministral", {"sliding_window": 24, "head_dim": 16}),
    "modernbert-decoder": ("modernbert-decoder", {}),
    "nanochat": ("nanochat", {}),
    "solar-open": ("solar_open", {"head_dim": 16, "n_routed_experts": 4, **MOE}),
    "vaultgemma": ("vaultgemma", {"head_dim": 16, "sliding_window": 24}),
}


def make_config(name: str) -> PreTrainedConfig:
    kind, changes = {**FAMILIES, **GENERIC}[name]
    config = AutoConfig.for_model(kind, **{**SMALL, **changes})
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    return config


def make(name: str) -> PreTrainedModel:
    """The reference: fp32, random weights, biases and norms that are not trivial."""
    config = make_config(name)
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for path, buffer in model.named_buffers():
            if path.endswith("correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.1)
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
