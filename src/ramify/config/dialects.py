"""How the `config.json` of an architecture is to be read: what it is silent about, what it calls things, and which
keys its code takes into account.

`ARITHMETIC` lists keys that change what a model computes without changing its tensors. A checkpoint that sets one
which its family does not read is refused by name: it would load, and compute something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ramify.core.registry import Registry

# key -> values that change nothing (None always is one)
ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "partial_rotary_factor": (1,),
    "no_rope_layers": (),
    "use_qk_norm": (False,),
    "clip_qkv": (),
    "attention_chunk_size": (),
    "attn_temperature_tuning": (False, 0),
    "use_bidirectional_attention": (False,),
    "use_parallel_residual": (False,),
    "alibi": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "rope_interleave": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "norm_topk_prob": (False,),
    "routed_scaling_factor": (1,),
    "n_group": (1,),
    "topk_group": (1,),
    "topk_method": (),
    "scoring_func": (),
    "moe_layer_freq": (1,),
    "swiglu_alpha": (1.702,),
    "swiglu_limit": (7.0,),
    "kv_lora_rank": (),
    "time_step_limit": (),
}


@dataclass(frozen=True)
class Dialect:
    """`defaults` stand in for what a file leaves out, as transformers has them. `names` maps the general key to the
    family's own. `reads` are keys of `ARITHMETIC` that the family's code looks at, with what counts where they are
    missing. `windows`: its attention may be limited to a window. `recurrent`: some layers keep a state, see
    `config.model.Recurrent`. `pattern` is the distance of layers with full attention among layers with a window or a
    state, 0 where all layers are alike. `chunks`: its layers that rotate see chunks of the text.
    """

    defaults: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    reads: dict[str, Any] = field(default_factory=dict)
    windows: bool = False
    pattern: int = 0
    recurrent: str = ""
    chunks: bool = False


PLAIN = Dialect()
TIED = {"tie_word_embeddings": True}
GEMMA = {**TIED, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "head_dim": 256}

MISTRAL = Dialect({"max_position_embeddings": 131072, "sliding_window": 4096}, windows=True)
QWEN = Dialect({"max_position_embeddings": 32768, "use_sliding_window": False}, windows=True)
SMOLLM3 = Dialect({**TIED, "max_position_embeddings": 32768, "rope_theta": 2e6}, reads={"no_rope_layers": None})
OLMO2 = Dialect({"rms_norm_eps": 1e-5})
OLMO3 = Dialect(
    {"rms_norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 5e5, "rope_local_base_freq": 5e5},
    windows=True,
    pattern=4,
)
GRANITE_READS = {
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}
GRANITE = Dialect(reads=GRANITE_READS)
PHI3 = Dialect(
    {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}, reads={"partial_rotary_factor": 1.0}, windows=True
)
GLM = Dialect(
    {
        "rms_norm_eps": 1.5625e-07,
        "max_position_embeddings": 131072,
        "partial_rotary_factor": 0.5,
        "head_dim": 128,
        "attention_bias": True,
    },
    reads={"partial_rotary_factor": 0.5},
)
COHERE = Dialect(
    {**TIED, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "rope_theta": 5e5},
    names={"rms_norm_eps": "layer_norm_eps"},
    reads={"logit_scale": 0.0625, "use_qk_norm": False},
)
COHERE2 = Dialect(
    {**TIED, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "sliding_window": 4096, "head_dim": 128},
    names={"rms_norm_eps": "layer_norm_eps"},
    reads={"logit_scale": 0.0625},
    windows=True,
    pattern=4,
)
GPT2 = Dialect(
    {**TIED, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "n_positions": 1024, "mlp_bias": True},
    names={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    },
    reads={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
)
GEMMA1 = Dialect(GEMMA, names={"hidden_act": "hidden_activation"})
GEMMA2 = Dialect(
    {**GEMMA, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    names={"hidden_act": "hidden_activation"},
    reads={"query_pre_attn_scalar": 256, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    windows=True,
    pattern=2,
)
GEMMA3 = Dialect(
    {
        **GEMMA,
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    names={"hidden_act": "hidden_activation"},
    reads={"query_pre_attn_scalar": 256, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    windows=True,
    pattern=6,
)
MIXTRAL = Dialect(
    {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_experts_per_tok": 2},
    reads={"num_local_experts": 8},
    windows=True,
)
QWEN2_MOE = Dialect(
    {
        "max_position_embeddings": 32768,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "decoder_sparse_step": 1,
        "use_sliding_window": False,
    },
    windows=True,
    reads={"num_experts": 60, "norm_topk_prob": False},
)
QWEN3_MOE = Dialect(
    {
        "max_position_embeddings": 32768,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "use_sliding_window": False,
    },
    windows=True,
    reads={"num_experts": None, "num_local_experts": None, "norm_topk_prob": False},
)
GPT_OSS = Dialect(
    {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "sliding_window": 128,
        "head_dim": 64,
        "attention_bias": True,
        "num_experts_per_tok": 4,
        "rope_theta": 150000.0,
    },
    reads={"num_local_experts": 128},
    windows=True,
    pattern=2,
)
GLM4_MOE = Dialect(
    {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "partial_rotary_factor": 0.5,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    reads={
        "partial_rotary_factor": 0.5,
        "use_qk_norm": False,
        "n_routed_experts": 128,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
    },
)
LLAMA4 = Dialect(
    {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 5e5,
        "head_dim": 128,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "interleave_moe_layer_step": 1,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "n_shared_experts": 1,
        "attention_chunk_size": 8192,
        "attn_temperature_tuning": True,
    },
    names={
        "moe_intermediate_size": "intermediate_size",
        "intermediate_size": "intermediate_size_mlp",
        "decoder_sparse_step": "interleave_moe_layer_step",
    },
    reads={
        "num_local_experts": None,
        "no_rope_layers": None,
        "use_qk_norm": True,
        "attention_chunk_size": None,
        "attn_temperature_tuning": None,  # a number in early files
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    chunks=True,
)
GRANITE_MOE = Dialect({"num_experts_per_tok": 2}, reads={**GRANITE_READS, "num_local_experts": 8})
DEEPSEEK_V2 = Dialect(
    {
        "moe_intermediate_size": 1407,
        "n_shared_experts": 2,
        "first_k_dense_replace": 0,
        "num_experts_per_tok": 6,
        "q_lora_rank": 1536,
    },
    reads={
        "n_routed_experts": 64,
        "kv_lora_rank": 512,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
    },
)
DEEPSEEK_V3 = Dialect(
    {
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 4096,
        "q_lora_rank": 1536,
    },
    reads={
        "n_routed_experts": 256,
        "kv_lora_rank": 512,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "rope_interleave": True,
    },
)

# A state has no longest text: where the file names none, it is a long one.
MAMBA2 = Dialect(
    {
        "max_position_embeddings": 1 << 18,
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "layer_norm_epsilon": 1e-5,
    },
    names={
        "num_attention_heads": "num_heads",
        "rms_norm_eps": "layer_norm_epsilon",
        "state_heads": "num_heads",
        "state_value": "head_dim",
        "state_key": "state_size",
        "state_groups": "n_groups",
        "state_conv": "conv_kernel",
    },
    reads={"time_step_limit": None, "use_bias": False, "use_conv_bias": True},
    recurrent="ssd",
)
HYBRID = {
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
HYBRID_NAMES = {
    "state_heads": "mamba_n_heads",
    "state_value": "mamba_d_head",
    "state_key": "mamba_d_state",
    "state_groups": "mamba_n_groups",
    "state_conv": "mamba_d_conv",
}
HYBRID_READS = {"time_step_limit": None, "mamba_conv_bias": True, "mamba_proj_bias": False}
BAMBA = Dialect(
    {**HYBRID, "rms_norm_eps": 1e-5, "max_position_embeddings": 1 << 18, "partial_rotary_factor": 0.5},
    names=HYBRID_NAMES,
    reads={**HYBRID_READS, "partial_rotary_factor": 0.5},
    recurrent="ssd",
)
GRANITE_HYBRID = Dialect(
    {**HYBRID, "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024},
    names={
        **HYBRID_NAMES,
        "moe_intermediate_size": "intermediate_size",
        "intermediate_size": "shared_intermediate_size",
        "shared_expert_intermediate_size": "shared_intermediate_size",
    },
    reads={**GRANITE_READS, **HYBRID_READS, "num_local_experts": 8, "position_embedding_type": None},
    recurrent="ssd",
)
QWEN3_NEXT = Dialect(
    {
        "max_position_embeddings": 32768,
        "head_dim": 256,
        "partial_rotary_factor": 0.25,
        "num_experts_per_tok": 10,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "decoder_sparse_step": 1,
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    },
    names={
        "state_heads": "linear_num_value_heads",
        "state_value": "linear_value_head_dim",
        "state_key": "linear_key_head_dim",
        "state_groups": "linear_num_key_heads",
        "state_conv": "linear_conv_kernel_dim",
    },
    reads={"partial_rotary_factor": 0.25, "num_experts": 512, "norm_topk_prob": True},
    pattern=4,
    recurrent="delta",
)

_HERE = "ramify.config.dialects:"
DIALECTS: Registry[Dialect] = Registry(
    "dialects",
    {
        "Qwen2ForCausalLM": f"{_HERE}QWEN",
        "Qwen3ForCausalLM": f"{_HERE}QWEN",
        "MistralForCausalLM": f"{_HERE}MISTRAL",
        "SmolLM3ForCausalLM": f"{_HERE}SMOLLM3",
        "Olmo2ForCausalLM": f"{_HERE}OLMO2",
        "Olmo3ForCausalLM": f"{_HERE}OLMO3",
        "GraniteForCausalLM": f"{_HERE}GRANITE",
        "Phi3ForCausalLM": f"{_HERE}PHI3",
        "GlmForCausalLM": f"{_HERE}GLM",
        "Glm4ForCausalLM": f"{_HERE}GLM",
        "CohereForCausalLM": f"{_HERE}COHERE",
        "Cohere2ForCausalLM": f"{_HERE}COHERE2",
        "GPT2LMHeadModel": f"{_HERE}GPT2",
        "GemmaForCausalLM": f"{_HERE}GEMMA1",
        "Gemma2ForCausalLM": f"{_HERE}GEMMA2",
        "Gemma3ForCausalLM": f"{_HERE}GEMMA3",
        "MixtralForCausalLM": f"{_HERE}MIXTRAL",
        "Qwen2MoeForCausalLM": f"{_HERE}QWEN2_MOE",
        "Qwen3MoeForCausalLM": f"{_HERE}QWEN3_MOE",
        "GptOssForCausalLM": f"{_HERE}GPT_OSS",
        "Glm4MoeForCausalLM": f"{_HERE}GLM4_MOE",
        "GraniteMoeForCausalLM": f"{_HERE}GRANITE_MOE",
        "Llama4ForCausalLM": f"{_HERE}LLAMA4",
        "Mamba2ForCausalLM": f"{_HERE}MAMBA2",
        "BambaForCausalLM": f"{_HERE}BAMBA",
        "GraniteMoeHybridForCausalLM": f"{_HERE}GRANITE_HYBRID",
        "Qwen3NextForCausalLM": f"{_HERE}QWEN3_NEXT",
        "DeepseekV2ForCausalLM": f"{_HERE}DEEPSEEK_V2",
        "DeepseekV3ForCausalLM": f"{_HERE}DEEPSEEK_V3",
    },
)


def dialect_of(architecture: str) -> Dialect:
    """How to read the configuration of an architecture; one that nobody described is read as Llama's."""
    base = re.split("For|LMHead|Model", architecture)[0]  # heads other than the one that generates are read alike
    for name in (architecture, f"{base}ForCausalLM", f"{base}LMHeadModel"):
        if name in DIALECTS:
            return DIALECTS[name]
    return PLAIN
