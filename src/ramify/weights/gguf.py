"""Tensors of a GGUF file under the names that transformers gives them, and in its order of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ramify.config.gguf import Header, Placed, read_header
from ramify.config.gguf_model import FACTORS
from ramify.core.errors import StartupError
from ramify.weights.checkpoint import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK = re.compile(r"blk\.(\d{1,4})\.([a-z_]+)\.(weight|bias)")
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TURNED = ("attn_q", "attn_k")  # of which llama has the pairs of a head beside each other


@dataclass(frozen=True)
class Mapped(TensorInfo):
    """`first` and `size` in bytes. Rows come in pairs of `turned` heads (0: in order); `offset` was added to all."""

    first: int = 0
    size: int = 0
    turned: int = 0
    offset: float = 0.0


def list_mapped(file: Path) -> dict[str, TensorInfo]:
    """Everything that is in a file, experts one by one."""
    header = read_header(file)
    found: dict[str, TensorInfo] = {}
    for tensor in header.tensors.values():
        for name, info in _named(header, tensor):
            if name in found:
                raise StartupError(f"{file}: two tensors are {name}")
            found[name] = info
    return found


def _named(header: Header, tensor: Placed) -> Iterator[tuple[str, Mapped]]:
    architecture = header.metadata["general.architecture"]
    if tensor.name == FACTORS:
        return
    match = BLOCK.fullmatch(tensor.name)
    if match is None:
        name = OUTSIDE.get(tensor.name, tensor.name)
        yield name, _info(header, tensor, offset=_offset(architecture, name))
        return
    layer, part, end = match.groups()
    here = f"model.layers.{int(layer)}."
    if part in EXPERTS:
        yield from _experts(header, tensor, here, EXPERTS[part])
        return
    mixed = architecture == "llama" and part == "ffn_gate_inp"
    inside = INSIDE | SANDWICH if architecture in ("gemma2", "gemma3") else INSIDE
    name = f"{here}{'block_sparse_moe.gate' if mixed else inside.get(part, part)}.{end}"
    turned = _heads(header, part) if architecture == "llama" and part in TURNED else 0
    yield name, _info(header, tensor, turned=turned, offset=_offset(architecture, name))


def _experts(header: Header, tensor: Placed, here: str, part: str) -> Iterator[tuple[str, Mapped]]:
    """One behind the other in the file."""
    if len(tensor.shape) != 3:
        raise StartupError(f"{header.file}: {tensor.name} should have three dimensions")
    count, each = tensor.shape[0], tensor.size // tensor.shape[0]
    llama = header.metadata["general.architecture"] == "llama"
    room, part = ("block_sparse_moe", MIXTRAL[part]) if llama else ("mlp", part)
    for expert in range(count):
        placed = Placed(tensor.name, tensor.type, tensor.shape[1:], tensor.first + expert * each, each)
        yield f"{here}{room}.experts.{expert}.{part}.weight", _info(header, placed)


def _info(header: Header, tensor: Placed, turned: int = 0, offset: float = 0.0) -> Mapped:
    return Mapped(header.file, tensor.type, tensor.shape, tensor.name, tensor.first, tensor.size, turned, offset)


def _offset(architecture: str, name: str) -> float:
    """Gemma's norms multiply by 1 + weight, and stand in the file as that."""
    return 1.0 if architecture.startswith("gemma") and name.endswith("norm.weight") else 0.0


def _heads(header: Header, part: str) -> int:
    metadata = header.metadata
    heads = metadata["llama.attention.head_count"]
    heads = heads if part == "attn_q" else metadata.get("llama.attention.head_count_kv", heads)
    return int(heads[0] if isinstance(heads, list) else heads)


def read_mapped(info: Mapped) -> Tensor:
    """Numbers in their type, [E, D], or the blocks of quantized rows as bytes, [E, bytes]."""
    import numpy as np
    import torch

    data = torch.from_numpy(np.memmap(info.file, np.uint8, "c", info.first, info.size))
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(info.dtype)
    rows = data.view(*info.shape[:-1], -1) if plain is None else data.view(plain).view(info.shape)
    if info.turned:
        rows = _in_order(rows, info)
    return rows - info.offset if info.offset else rows


def _in_order(rows: Tensor, info: Mapped) -> Tensor:
    """Row 2 i of a head becomes its i-th, row 2 i + 1 that half a head further."""
    if len(rows) % (2 * info.turned):
        raise StartupError(f"{info.file}: {info.name} has {len(rows)} rows, for {info.turned} heads")
    return rows.unflatten(0, (info.turned, -1, 2)).transpose(1, 2).flatten(0, 2)
