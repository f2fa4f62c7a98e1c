"""What the checkpoints of each family hold."""

from __future__ import annotations

from collections.abc import Collection

from ramify.config.model import ModelConfig, Recurrent
from ramify.config.quantized import quantized_of
from ramify.core.errors import StartupError
from ramify.models.layout import (
    EMBEDDING,
    HEAD,
    Family,
    Layout,
    Names,
    alike,
    attention,
    biased_attention,
    decoder,
    experts,
    fused_attention,
    fused_gated_mlp,
    gated_mlp,
    head_norms,
    pre_norms,
)

# -- dense decoders ----------------------------------------------------------------------------------------------------


_plain = alike(pre_norms, biased_attention, gated_mlp)


def _qwen2(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        attention(names, config, qkv_bias=True)
        gated_mlp(names, config)

    return decoder(config, block)


_qwen3 = alike(pre_norms, biased_attention, head_norms, gated_mlp)


def _olmo2(config: ModelConfig) -> Layout:
    """Norms after attention and after the feed-forward block; those of queries and keys are over all heads."""

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        names.norm("post_attention_layernorm", "attention_norm", config.hidden)
        names.norm("post_feedforward_layernorm", "mlp_norm", config.hidden)
        biased_attention(names, config)
        names.norm("self_attn.q_norm", "attention.q_all_norm", config.heads * config.head_dim)
        names.norm("self_attn.k_norm", "attention.k_all_norm", config.kv_heads * config.head_dim)
        gated_mlp(names, config)

    return decoder(config, block)


def _phi3(config: ModelConfig) -> Layout:
    _check_longrope(config)

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        fused_attention(names, config)
        fused_gated_mlp(names, config)

    return decoder(config, block)


def _check_longrope(config: ModelConfig) -> None:
    pairs = config.rope.rotated(config.head_dim) // 2
    for factors in (config.rope.short, config.rope.long):
        if factors and len(factors) != pairs:
            raise StartupError(f"config.json: longrope has {len(factors)} factors for {pairs} pairs of a head")


def _glm(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        attention(names, config, qkv_bias=config.attention_bias)
        fused_gated_mlp(names, config)

    return decoder(config, block)


def _glm4(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        names.norm("post_self_attn_layernorm", "after_attention_norm", config.hidden)
        names.norm("post_mlp_layernorm", "after_mlp_norm", config.hidden)
        attention(names, config, qkv_bias=config.attention_bias)
        fused_gated_mlp(names, config)

    return decoder(config, block)


def _cohere(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        names.norm("input_layernorm", "norm", config.hidden)
        biased_attention(names, config)
        if config.numbers.get("use_qk_norm"):
            size = config.head_dim
            names.tensor("self_attn.q_norm.weight", "attention.q_heads_norm", (config.heads, size))
            names.tensor("self_attn.k_norm.weight", "attention.k_heads_norm", (config.kv_heads, size))
        gated_mlp(names, config)

    return decoder(config, block)


def _gpt2(config: ModelConfig) -> Layout:
    hidden, layout = config.hidden, Layout()
    names = Names(layout, "transformer.", "")
    names.tensor("wte.weight", EMBEDDING, (config.vocab, hidden))
    names.tensor("wpe.weight", "positions", (config.context, hidden))
    names.norm("ln_f", "norm", hidden, bias=True)
    if not config.tied:
        Names(layout, "", "").linear("lm_head", HEAD, config.vocab, hidden)
    for layer in range(config.layers):
        here = names.below(f"h.{layer}.", f"layers.{layer}.")
        here.norm("ln_1", "attention_norm", hidden, bias=True)
        here.norm("ln_2", "mlp_norm", hidden, bias=True)
        here.transposed("attn.c_attn", "attention.qkv", 3 * hidden, hidden)
        here.transposed("attn.c_proj", "attention.out", hidden, hidden)
        here.transposed("mlp.c_fc", "mlp.up", config.mlp, hidden)
        here.transposed("mlp.c_proj", "mlp.down", hidden, config.mlp)
    return layout


def _bare_gpt2(layout: Layout, names: Collection[str]) -> Layout:
    """As it was first published: without the prefix."""
    if any(name.startswith("transformer.") for name in names):
        return layout
    return {name.removeprefix("transformer."): to for name, to in layout.items()}


def _sandwich(names: Names, config: ModelConfig) -> None:
    """Gemma 2 and 3: a norm before and one after, twice."""
    names.norm("input_layernorm", "attention_norm", config.hidden)
    names.norm("post_attention_layernorm", "after_attention_norm", config.hidden)
    names.norm("pre_feedforward_layernorm", "mlp_norm", config.hidden)
    names.norm("post_feedforward_layernorm", "after_mlp_norm", config.hidden)


_gemma2 = alike(_sandwich, biased_attention, gated_mlp)


_gemma3 = alike(_sandwich, biased_attention, head_norms, gated_mlp)


# -- mixtures of experts -----------------------------------------------------------------------------------------------


def _mixtral(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        attention(names, config)
        experts(names, config, room="block_sparse_moe", parts=("w1", "w3", "w2"))

    return decoder(config, block)


def _qwen2_moe(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        attention(names, config, qkv_bias=config.raw.get("qkv_bias", True))
        _gated_shared_expert(names, config, layer)

    return decoder(config, block)


def _gated_shared_expert(names: Names, config: ModelConfig, layer: int) -> None:
    """Qwen2-MoE and Qwen3-Next: beside the routed experts one that all tokens have, as far as its gate lets it."""
    if not config.is_sparse(layer):
        gated_mlp(names, config)
        return
    assert config.experts is not None
    experts(names, config)
    gated_mlp(names, config, "mlp.shared_expert", "mlp.shared", config.experts.shared)
    names.linear("mlp.shared_expert_gate", "mlp.shared_gate", 1, config.hidden)


def _qwen3_moe(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        biased_attention(names, config)
        head_norms(names, config)
        if config.is_sparse(layer):
            experts(names, config)
        else:
            gated_mlp(names, config)

    return decoder(config, block)


def mxfp4_block(config: ModelConfig) -> int:
    """How many weights of an expert share a scale; 0 where they are not quantized."""
    quantized = quantized_of(config.raw)
    if quantized is not None and quantized.method != "mxfp4":
        raise StartupError(
            f"config.json: quantization_config.quant_method {quantized.method!r} is not supported for this family"
        )
    block = 0 if quantized is None else 32
    if block and (config.hidden % block or (config.experts and config.experts.mlp % block)):
        raise StartupError(f"config.json: experts in mxfp4 have sizes that are multiples of {block}")
    return block


def _gpt_oss(config: ModelConfig) -> Layout:
    assert config.experts is not None
    count, width, hidden = config.experts.count, config.experts.mlp, config.hidden

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        biased_attention(names, config)
        names.tensor("self_attn.sinks", "attention.sinks", (config.heads,))
        names.linear("mlp.router", "mlp.router.linear", count, hidden, bias=True)
        up, down, block = "mlp.experts.gate_up", "mlp.experts.down", mxfp4_block(config)
        names.tensor(f"{up}_proj_bias", up, (count, 2 * width), "bias", how="flat halves")
        names.tensor(f"{down}_proj_bias", down, (count, hidden), "bias", how="flat")
        if not block:
            names.tensor(f"{up}_proj", up, (count, hidden, 2 * width), how="stacked transposed halves")
            names.tensor(f"{down}_proj", down, (count, width, hidden), how="stacked transposed")
            return
        into, out = (count, 2 * width, hidden // block), (count, hidden, width // block)
        names.tensor(f"{up}_proj_blocks", up, (*into, block // 2), how="stacked fp4 halves")
        names.tensor(f"{up}_proj_scales", up, into, "scales", how="stacked powers halves")
        names.tensor(f"{down}_proj_blocks", down, (*out, block // 2), how="stacked fp4")
        names.tensor(f"{down}_proj_scales", down, out, "scales", how="stacked powers")

    return decoder(config, block)


def _llama4(config: ModelConfig) -> Layout:
    _check_llama4(config)

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        biased_attention(names, config)
        if not config.is_sparse(layer):
            gated_mlp(names, config, "feed_forward")
            return
        assert config.experts is not None
        count, width, hidden = config.experts.count, config.experts.mlp, config.hidden
        names.linear("feed_forward.router", "mlp.router.linear", count, hidden)
        into, out = "feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"
        names.tensor(into, "mlp.experts.gate_up", (count, hidden, 2 * width), how="stacked transposed")
        names.tensor(out, "mlp.experts.down", (count, width, hidden), how="stacked transposed")
        gated_mlp(names, config, "feed_forward.shared_expert", "mlp.shared", config.experts.shared)

    return decoder(config, block)


def _check_llama4(config: ModelConfig) -> None:
    numbers, kind = config.numbers, config.rope.kind
    if not isinstance(numbers["attn_temperature_tuning"], bool | int):
        raise StartupError("config.json: attn_temperature_tuning should be true or false")
    if numbers["floor_scale"] < 1 or numbers["floor_scale"] % 1:
        raise StartupError("config.json: floor_scale should be a positive integer")
    if numbers["use_qk_norm"] and kind in ("yarn", "longrope"):
        raise StartupError(f"config.json: use_qk_norm and a rotation of the type {kind!r}, which changes lengths")


def _granite_experts(names: Names, config: ModelConfig) -> None:
    assert config.experts is not None
    count, width, hidden = config.experts.count, config.experts.mlp, config.hidden
    names.linear("block_sparse_moe.router.layer", "mlp.router.linear", count, hidden)
    into, out = "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"
    names.tensor(into, "mlp.experts.gate_up", (count, 2 * width, hidden), how="stacked")
    names.tensor(out, "mlp.experts.down", (count, hidden, width), how="stacked")


_granite_moe = alike(pre_norms, biased_attention, _granite_experts)


def _shared_experts(names: Names, config: ModelConfig, layer: int) -> None:
    """DeepSeek and GLM 4.5: dense layers first, then routed experts beside shared ones."""
    if not config.is_sparse(layer):
        gated_mlp(names, config)
        return
    assert config.experts is not None
    experts(names, config)
    gated_mlp(names, config, "mlp.shared_experts", "mlp.shared", config.experts.shared)


def _glm4_moe(config: ModelConfig) -> Layout:
    _check_groups(config)

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        attention(names, config, qkv_bias=config.attention_bias)
        if config.numbers["use_qk_norm"]:
            head_norms(names, config)
        _corrected_experts(names, config, layer)

    return decoder(config, block)


def _corrected_experts(names: Names, config: ModelConfig, layer: int) -> None:
    """Scores are corrected by a number of each expert for the choice alone."""
    _shared_experts(names, config, layer)
    if config.is_sparse(layer):
        assert config.experts is not None
        names.tensor("mlp.gate.e_score_correction_bias", "mlp.correction", (config.experts.count,))


# -- latent attention --------------------------------------------------------------------------------------------------


def _latent_attention(names: Names, config: ModelConfig) -> None:
    latent, hidden = config.latent, config.hidden
    assert latent is not None
    here, there, bias = "self_attn", "attention", config.attention_bias
    queries = config.heads * (latent.plain + latent.rotated)
    if latent.q_rank is None:
        names.linear(f"{here}.q_proj", f"{there}.q", queries, hidden)
    else:
        names.linear(f"{here}.q_a_proj", f"{there}.q_down", latent.q_rank, hidden, bias=bias)
        names.norm(f"{here}.q_a_layernorm", f"{there}.q_norm", latent.q_rank)
        names.linear(f"{here}.q_b_proj", f"{there}.q", queries, latent.q_rank)
    kept = latent.kv_rank + latent.rotated
    names.linear(f"{here}.kv_a_proj_with_mqa", f"{there}.kv_down", kept, hidden, bias=bias)
    names.norm(f"{here}.kv_a_layernorm", f"{there}.kv_norm", latent.kv_rank)
    expanded = config.heads * (latent.plain + latent.value)
    names.linear(f"{here}.kv_b_proj", f"{there}.expansion", expanded, latent.kv_rank)
    names.linear(f"{here}.o_proj", f"{there}.out", hidden, config.heads * latent.value, bias=bias)


def _check_choice(config: ModelConfig, key: str, allowed: tuple[str, ...]) -> None:
    if config.numbers[key] not in allowed:
        raise StartupError(
            f"config.json: {key} {config.numbers[key]!r} is not supported", f"Supported: {', '.join(allowed)}."
        )


def _deepseek_v2(config: ModelConfig) -> Layout:
    _check_choice(config, "topk_method", ("greedy", "group_limited_greedy"))
    _check_choice(config, "scoring_func", ("softmax",))
    _check_groups(config)

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        _latent_attention(names, config)
        _shared_experts(names, config, layer)

    return decoder(config, block)


def _check_groups(config: ModelConfig) -> None:
    """Experts are divided evenly, and enough of them are left to choose from."""
    groups, kept = config.numbers["n_group"], config.numbers["topk_group"]
    experts = config.experts
    assert experts is not None
    if experts.count % groups or not 0 < kept <= groups or experts.count // groups * kept < experts.chosen:
        raise StartupError(
            f"config.json: n_group {groups} and topk_group {kept} do not go with {experts.count} experts of which "
            f"{experts.chosen} are chosen"
        )


def _deepseek_v3(config: ModelConfig) -> Layout:
    _check_choice(config, "topk_method", ("noaux_tc",))
    _check_choice(config, "scoring_func", ("sigmoid",))
    _check_groups(config)

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        _latent_attention(names, config)
        _corrected_experts(names, config, layer)

    return decoder(config, block)


# -- layers that keep a state ------------------------------------------------------------------------------------------


def _mamba2_mixer(names: Names, config: ModelConfig, here: str, there: str, *, bias: bool, conv_bias: bool) -> None:
    shape, hidden = _shape_of_state(config), config.hidden
    names.linear(f"{here}.in_proj", f"{there}.into", shape.inner + shape.channels + shape.heads, hidden, bias=bias)
    _convolution(names, config, here, there, conv_bias)
    names.tensor(f"{here}.A_log", f"{there}.dynamics", (shape.heads,), "decay")
    names.tensor(f"{here}.dt_bias", f"{there}.dynamics", (shape.heads,), "bias")
    names.tensor(f"{here}.D", f"{there}.dynamics", (shape.heads,), "skip")
    names.norm(f"{here}.norm", f"{there}.norm", shape.inner)
    names.linear(f"{here}.out_proj", f"{there}.out", hidden, shape.inner, bias=bias)


def _shape_of_state(config: ModelConfig) -> Recurrent:
    assert config.recurrent is not None
    if config.activation != "silu":
        raise StartupError(f"config.json: layers that keep a state have the activation silu, not {config.activation!r}")
    return config.recurrent


def _convolution(names: Names, config: ModelConfig, here: str, there: str, bias: bool) -> None:
    shape = _shape_of_state(config)
    names.tensor(f"{here}.conv1d.weight", f"{there}.conv", (shape.channels, 1, shape.conv))
    if bias:
        names.tensor(f"{here}.conv1d.bias", f"{there}.conv", (shape.channels,), "bias")


def _mamba2(config: ModelConfig) -> Layout:
    numbers, layout = config.numbers, Layout()
    outside, names = Names(layout, "", ""), Names(layout, "backbone.", "")
    names.tensor("embeddings.weight", EMBEDDING, (config.vocab, config.hidden))
    names.norm("norm_f", "norm", config.hidden)
    if not config.tied:
        outside.linear("lm_head", HEAD, config.vocab, config.hidden)
    for layer in range(config.layers):
        below = names.below(f"layers.{layer}.", f"layers.{layer}.")
        below.norm("norm", "norm", config.hidden)
        bias, conv_bias = numbers["use_bias"], numbers["use_conv_bias"]
        _mamba2_mixer(below, config, "mixer", "mixer", bias=bias, conv_bias=conv_bias)
    return layout


def _embedding_of_old(layout: Layout, names: Collection[str]) -> Layout:
    """Early checkpoints of Mamba 2 have one embedding, and call it so."""
    old, new = "backbone.embedding.weight", "backbone.embeddings.weight"
    return {old if name == new and old in names else name: to for name, to in layout.items()}


def _granite_hybrid(config: ModelConfig) -> Layout:
    hidden = config.hidden

    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        if config.is_recurrent(layer):
            _hybrid_mixer(names, config)
        else:
            biased_attention(names, config)
        shared = "mlp" if config.experts is None else "mlp.shared"
        names.linear("shared_mlp.input_linear", f"{shared}.gate_up", 2 * config.mlp, hidden)
        names.linear("shared_mlp.output_linear", f"{shared}.down", hidden, config.mlp)
        if config.experts is not None:
            _granite_experts(names, config)

    return decoder(config, block)


def _bamba(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        names.norm("input_layernorm", "attention_norm", config.hidden)
        names.norm("pre_ff_layernorm", "mlp_norm", config.hidden)
        if config.is_recurrent(layer):
            _hybrid_mixer(names, config)
        else:
            biased_attention(names, config)
        gated_mlp(names, config, "feed_forward")

    layout = decoder(config, block)
    layout["model.final_layernorm.weight"] = layout.pop("model.norm.weight")
    return layout


def _hybrid_mixer(names: Names, config: ModelConfig) -> None:
    """Where a hybrid has Mamba 2 in place of attention."""
    bias, conv_bias = config.numbers["mamba_proj_bias"], config.numbers["mamba_conv_bias"]
    _mamba2_mixer(names, config, "mamba", "attention", bias=bias, conv_bias=conv_bias)


def _qwen3_next(config: ModelConfig) -> Layout:
    def block(names: Names, config: ModelConfig, layer: int) -> None:
        pre_norms(names, config)
        (_delta_net if config.is_recurrent(layer) else _gated_attention)(names, config)
        _gated_shared_expert(names, config, layer)

    return decoder(config, block)


def _delta_net(names: Names, config: ModelConfig) -> None:
    shape, hidden, here, there = _shape_of_state(config), config.hidden, "linear_attn", "attention"
    names.linear(f"{here}.in_proj_qkvz", f"{there}.into", shape.channels + shape.inner, hidden, part="qkvz")
    names.linear(f"{here}.in_proj_ba", f"{there}.into", 2 * shape.heads, hidden, part="ba")
    _convolution(names, config, here, there, bias=False)
    names.tensor(f"{here}.A_log", f"{there}.dynamics", (shape.heads,), "decay")
    names.tensor(f"{here}.dt_bias", f"{there}.dynamics", (shape.heads,), "bias")
    names.norm(f"{here}.norm", f"{there}.norm", shape.value)
    names.linear(f"{here}.out_proj", f"{there}.out", hidden, shape.inner)


def _gated_attention(names: Names, config: ModelConfig) -> None:
    """Queries come with a gate."""
    q, kv, bias = config.heads * config.head_dim, config.kv_heads * config.head_dim, config.attention_bias
    for part, outputs in (("q", 2 * q), ("k", kv), ("v", kv)):
        names.linear(f"self_attn.{part}_proj", "attention.qkv", outputs, config.hidden, part=part, bias=bias)
    names.linear("self_attn.o_proj", "attention.out", config.hidden, q, bias=bias)
    head_norms(names, config)


LLAMA = Family("ramify.models.llama:Llama", _plain, models="Llama 2 and 3, Mistral")
QWEN2 = Family("ramify.models.qwen2:Qwen2", _qwen2, models="Qwen2, Qwen2.5")
QWEN3 = Family("ramify.models.qwen3:Qwen3", _qwen3, models="Qwen3")
SMOLLM3 = Family("ramify.models.smollm3:SmolLM3", _plain, models="SmolLM3")
OLMO2 = Family("ramify.models.olmo2:Olmo2", _olmo2, models="OLMo 2 and 3")
GRANITE = Family("ramify.models.granite:Granite", _plain, models="Granite 3")
PHI3 = Family("ramify.models.phi3:Phi3", _phi3, models="Phi-3, Phi-3.5, Phi-4")
GLM = Family("ramify.models.glm:Glm", _glm, models="GLM-4 of 2024")
GLM4 = Family("ramify.models.glm:Glm4", _glm4, models="GLM-4 of 2025")
COHERE = Family("ramify.models.cohere:Cohere", _cohere, models="Command R, R+")
COHERE2 = Family("ramify.models.cohere:Cohere2", _cohere, models="Command R7B, Command A")
GPT2 = Family("ramify.models.gpt2:GPT2", _gpt2, _bare_gpt2, models="GPT-2")
GEMMA = Family("ramify.models.gemma:Gemma", _plain, models="Gemma")
GEMMA2 = Family("ramify.models.gemma2:Gemma2", _gemma2, models="Gemma 2")
GEMMA3 = Family("ramify.models.gemma3:Gemma3", _gemma3, models="Gemma 3, text")
MIXTRAL = Family("ramify.models.mixtral:Mixtral", _mixtral, models="Mixtral")
LLAMA4 = Family("ramify.models.llama4:Llama4", _llama4, models="Llama 4, text")
QWEN2_MOE = Family("ramify.models.qwen2_moe:Qwen2Moe", _qwen2_moe, models="Qwen1.5-MoE, Qwen2-MoE")
QWEN3_MOE = Family("ramify.models.qwen3_moe:Qwen3Moe", _qwen3_moe, models="Qwen3-MoE")
GPT_OSS = Family("ramify.models.gpt_oss:GptOss", _gpt_oss, models="GPT-OSS, experts in bf16 or MXFP4")
GRANITE_MOE = Family("ramify.models.granite:GraniteMoe", _granite_moe, models="Granite 3, 1B-A400M and 3B-A800M")
GLM4_MOE = Family("ramify.models.glm4_moe:Glm4Moe", _glm4_moe, models="GLM-4.5")
DEEPSEEK_V2 = Family("ramify.models.deepseek:DeepseekV2", _deepseek_v2, models="DeepSeek V2")
DEEPSEEK_V3 = Family("ramify.models.deepseek:DeepseekV3", _deepseek_v3, models="DeepSeek V3 and R1")
MAMBA2 = Family("ramify.models.mamba2:Mamba2", _mamba2, _embedding_of_old, models="Mamba 2, Codestral Mamba")
BAMBA = Family("ramify.models.bamba:Bamba", _bamba, models="Bamba")
GRANITE_HYBRID = Family(
    "ramify.models.granite:GraniteHybrid", _granite_hybrid, models="Granite 4, dense and with experts"
)
QWEN3_NEXT = Family("ramify.models.qwen3_next:Qwen3Next", _qwen3_next, spare=("mtp.",), models="Qwen3-Next in bf16")
