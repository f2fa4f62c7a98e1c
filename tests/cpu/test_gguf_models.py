"""GGUF files: what their blocks mean, and models of every architecture that is read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from harness import all_logits, make_runner, relative_error
from models import reference_logits
from torch import Tensor
from transformers import PreTrainedModel

import ramify
from assets import shared
from ggufs import Tensors, save
from ramify.config.gguf import TYPES
from ramify.config.model import read_config
from ramify.quant.ggml import READ
from ramify.text.tokenizer import load_tokenizer

GREEDY = {"temperature": 0, "max_new_tokens": 39, "ignore_eos": True}
STORIES = "weights/TinyStories-656K"


def blocks(kind: str, rows: int, across: int, seed: int = 0) -> np.ndarray:
    """Random bytes, with scales that are numbers."""
    rnd = np.random.default_rng(seed)
    size = next(size for name, _, size in TYPES.values() if name == kind)
    made = rnd.integers(0, 256, (rows, across, size), dtype=np.uint8)
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2]}
    for at in halves.get(kind, [208]):
        made[..., at : at + 2] = rnd.normal(0, 0.1, (rows, across, 1)).astype(np.float16).view(np.uint8)
    return made


def number_by_number(kind: str, block: np.ndarray) -> list[float]:
    """One block, as ggml's dequantize_row functions say it, in plain Python."""
    half = lambda at: float(block[at : at + 2].view(np.float16)[0])  # noqa: E731
    b = [int(each) for each in block]
    out = [0.0] * (32 if kind[-1] in "01" else 256)
    if kind == "Q8_0":
        return [half(0) * (x - 256 if x > 127 else x) for x in b[2:]]
    if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        first = {"Q4_0": 2, "Q4_1": 4, "Q5_0": 6, "Q5_1": 8}[kind]
        bits = sum(x << 8 * i for i, x in enumerate(b[first - 4 : first])) if kind[1] == "5" else 0
        for j in range(16):
            for k, nibble in ((j, b[first + j] & 15), (j + 16, b[first + j] >> 4)):
                whole = nibble | (bits >> k & 1) << 4
                middle = {"Q4_0": 8, "Q5_0": 16}.get(kind, 0)
                out[k] = half(0) * (whole - middle) + (half(2) if kind[-1] == "1" else 0)
        return out
    if kind == "Q6_K":
        for n in range(2):
            for l in range(32):
                ql, qh, scale = b[64 * n :], b[128 + 32 * n + l], [x - 256 if x > 127 else x for x in b[192:208]]
                for part, low in enumerate((ql[l] & 15, ql[l + 32] & 15, ql[l] >> 4, ql[l + 32] >> 4)):
                    whole = (low | (qh >> 2 * part & 3) << 4) - 32
                    out[128 * n + 32 * part + l] = half(208) * scale[8 * n + 2 * part + l // 16] * whole
        return out
    s, first = b[4:16], 16 if kind == "Q4_K" else 48
    for j in range(8):
        scale, least = s[j] & 63, s[j + 4] & 63
        if j >= 4:
            scale, least = s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4
        for l in range(32):
            whole = b[first + j // 2 * 32 + l] >> 4 * (j % 2) & 15
            if kind == "Q5_K":
                whole |= (b[16 + l] >> j & 1) << 4
            out[32 * j + l] = half(0) * scale * whole - half(2) * least
    return out


@pytest.mark.parametrize("kind", READ)
def test_what_blocks_mean(kind: str) -> None:
    made = blocks(kind, 5, 3)
    wanted = torch.tensor([[x for block in row for x in number_by_number(kind, block)] for row in made])
    found = READ[kind](torch.from_numpy(made).flatten(1))
    assert tuple(found.shape) == tuple(wanted.shape)
    torch.testing.assert_close(found.rows(0, 5), wanted, rtol=1e-5, atol=3e-5)
    torch.testing.assert_close(found.rows(1, 4), wanted[1:4], rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("kind", READ)
def test_what_blocks_mean_to_ggml(kind: str) -> None:
    quants = pytest.importorskip("gguf.quants", reason="ggml's own Python package is not installed")
    from gguf import GGMLQuantizationType

    made = blocks(kind, 33, 4, seed=1).reshape(33, -1)
    wanted = torch.from_numpy(quants.dequantize(made, GGMLQuantizationType[kind]))
    torch.testing.assert_close(READ[kind](torch.from_numpy(made)).rows(0, 33), wanted, rtol=1e-5, atol=3e-5)


# -- real files --------------------------------------------------------------------------------------------------------


def said(file: Path, **settings: Any) -> list[int]:
    with ramify.Engine(str(file), max_total_tokens=512, **settings) as engine:
        return engine.generate(input_ids=[1], sampling_params=GREEDY)["output_ids"]


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_0"])
def test_real_files_say_what_is_expected(kind: str) -> None:
    folder = shared(f"{STORIES}/derived-gguf")
    wanted = json.loads((folder / "expected.json").read_text())[kind]["greedy41"]
    file = folder / f"TinyStories-656K-{kind}.gguf"
    assert [1, *said(file, dtype="float32")] == wanted[:40]


def test_the_file_that_llama_cpp_made() -> None:
    folder = shared(STORIES)
    wanted = json.loads((folder / "derived-gguf/expected.json").read_text())["Q8_0"]["greedy41"]
    assert [1, *said(folder / "TinyStories-656K-Q8_0.gguf")] == wanted[:40]


@pytest.mark.parametrize(
    ("kind", "bound"), [("F16", 1e-5), ("Q8_0", 1e-5), ("Q5_1", 1e-5), ("Q4_0", 0.004), ("Q4_1", 0.004)]
)
def test_bits_per_character(kind: str, bound: float) -> None:
    """Of forty stories. Where inputs are rounded to int8 the measure may move a little."""
    folder = shared(f"{STORIES}/derived-gguf")
    wanted = json.loads((folder / "expected.json").read_text())[kind]["bits_per_char"]
    stories = json.loads(shared("text/tinystories-sample/tinystories_1000.json").read_text())[:40]
    words = load_tokenizer(shared(STORIES)).backend
    words = type(words).from_file(str(shared(f"{STORIES}/derived-tokenizer-noprefix.json")))
    runner = make_runner(folder / f"TinyStories-656K-{kind}.gguf")
    bits = 0.0
    for story in stories:
        ids = [1, *words.encode(story, add_special_tokens=False).ids][:512]
        logits = all_logits(runner, ids, [len(ids)]).log_softmax(-1)
        bits -= float(logits[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum()) / np.log(2)
    assert bits / sum(map(len, stories)) == pytest.approx(wanted, abs=bound)


# -- architectures -----------------------------------------------------------------------------------------------------

PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
NORMS = {"post_attention_layernorm": "ffn_norm"}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
ARCHITECTURES = {
    "llama2": "llama",
    "llama3.1": "llama",
    "llama3.2-tied": "llama",
    "llama-linear-rope": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen2.5-yarn": "qwen2",
    "qwen3": "qwen3",
    "qwen2.5-tied": "qwen2",
    "qwen3-moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}


def converted(model: PreTrainedModel, architecture: str, file: Path) -> Path:
    """As llama.cpp's converter does it, in F32."""
    config = model.config
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{architecture}.attention.key_length": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        f"{architecture}.rope.freq_base": float(rope["rope_theta"]),
    }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, key, None) is not None:
            metadata[f"{architecture}.{key}"] = float(getattr(config, key))
    if architecture in ("gemma2", "gemma3"):
        metadata[f"{architecture}.attention.sliding_window"] = config.sliding_window
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        metadata[f"{architecture}.expert_count"] = experts
        metadata[f"{architecture}.expert_used_count"] = config.num_experts_per_tok
        metadata[f"{architecture}.expert_feed_forward_length"] = getattr(
            config, "moe_intermediate_size", config.intermediate_size
        )
    tensors: Tensors = {}
    if rope["rope_type"] in ("linear", "yarn"):
        metadata[f"{architecture}.rope.scaling.type"] = rope["rope_type"]
        metadata[f"{architecture}.rope.scaling.factor"] = rope["factor"]
        if rope["rope_type"] == "yarn":
            metadata[f"{architecture}.rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if rope["rope_type"] == "llama3":
        plain = 1 / rope["rope_theta"] ** (torch.arange(0, 16, 2) / 16)
        tensors["rope_freqs.weight"] = ("F32", (8,), (plain / model.model.rotary_emb.inv_freq).numpy().tobytes())
    for name, tensor in model.state_dict().items():
        for renamed, each in renamed_tensors(name, tensor, architecture, config):
            tensors[renamed] = ("F32", tuple(each.shape), each.contiguous().numpy().tobytes())
    return save(file, metadata, tensors)


def renamed_tensors(name: str, tensor: Tensor, architecture: str, config: Any) -> list[tuple[str, Tensor]]:
    outside = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        tensor = tensor + 1
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return []
    if name in outside:
        return [(outside[name], tensor)]
    if name == "model.norm.weight":
        return [("output_norm.weight", tensor)]
    _, _, layer, rest = name.split(".", 3)
    part, _, end = rest.rpartition(".")
    here = f"blk.{layer}."
    if ".experts" in rest:
        if rest.endswith("gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            return [(f"{here}ffn_gate_exps.weight", gate), (f"{here}ffn_up_exps.weight", up)]
        return [(f"{here}ffn_down_exps.weight", tensor)]
    norms = SANDWICH if architecture in ("gemma2", "gemma3") else NORMS
    if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
        tensor = tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return [(f"{here}{(PARTS | norms)[part]}.{end}", tensor)]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_architectures(family: str, tmp_path: Path) -> None:
    model = make_plain(family)
    file = converted(model, ARCHITECTURES[family], tmp_path / "model.gguf")
    tokens = list(range(3, 63))
    ours = all_logits(make_runner(file), tokens, [40, 1, 19])
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4


def make_plain(family: str) -> PreTrainedModel:
    """As files can say it: scores are scaled by the size of a head, and all layers have experts or none."""
    kind, changes = models.FAMILIES[family]
    changes = {key: value for key, value in changes.items() if key != "mlp_only_layers"}
    if kind in ("gemma2", "gemma3_text"):
        changes["query_pre_attn_scalar"] = changes["head_dim"]
    models.FAMILIES["plain"] = (kind, changes)
    try:
        return models.make("plain")
    finally:
        del models.FAMILIES["plain"]


def test_quantized_blocks_of_256(tmp_path: Path) -> None:
    """Q4_K stays in four bits, beside what does not; embeddings are dequantized."""
    rnd = np.random.default_rng(3)
    metadata = {
        "general.architecture": "qwen3",
        "qwen3.block_count": 1,
        "qwen3.context_length": 128,
        "qwen3.embedding_length": 256,
        "qwen3.feed_forward_length": 256,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 4,
        "qwen3.attention.key_length": 64,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
    }
    kinds = {"attn_q": "Q4_K", "attn_k": "Q4_K", "attn_v": "Q6_K", "attn_output": "Q5_K"}
    kinds |= {"ffn_gate": "Q4_K", "ffn_up": "Q4_K", "ffn_down": "Q6_K"}
    tensors: Tensors = {"token_embd.weight": ("Q6_K", (64, 256), blocks("Q6_K", 64, 1).tobytes())}
    for name, kind in kinds.items():
        made = blocks(kind, 256, 1, seed=len(name))
        tensors[f"blk.0.{name}.weight"] = (kind, (256, 256), made.tobytes())
    for name, size in (("output_norm", 256), ("blk.0.attn_norm", 256), ("blk.0.ffn_norm", 256)):
        tensors[f"{name}.weight"] = ("F32", (size,), rnd.normal(1, 0.1, size).astype(np.float32).tobytes())
    for name in ("blk.0.attn_q_norm", "blk.0.attn_k_norm"):
        tensors[f"{name}.weight"] = ("F32", (64,), np.ones(64, dtype=np.float32).tobytes())
    file = save(tmp_path / "model.gguf", metadata, tensors)
    block = make_runner(file, dtype="bfloat16").model.layers[0]
    forms = [[type(run).__name__ for run in layer.runs] for layer in (block.attention.qkv, block.mlp.gate_up)]
    assert forms == [["Int4Run", "PlainRun"], ["Int4Run"]]
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    gate = READ["Q4_K"](
        torch.frombuffer(bytearray(tensors["blk.0.ffn_gate.weight"][2]), dtype=torch.uint8).view(256, -1)
    )
    wanted = x.float() @ gate.rows(0, 256).T
    assert relative_error(block.mlp.gate_up(x)[:, :256].float(), wanted) < 0.02
    assert read_config(file).dtype == "bfloat16"
