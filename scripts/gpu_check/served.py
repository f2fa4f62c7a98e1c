"""A model with random weights, and requests in pages of their own that are computed step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.config.model import parse_config
from ramify.layers.batch import Batch, Place
from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.memory.kv import KVCache, KVPool
from ramify.models.llama import Llama
from ramify.models.qwen3_moe import Qwen3Moe
from ramify.ops.attention import AttentionShape, Paged
from ramify.ops.triton.attention import TritonAttention
from ramify.ops.triton.kernels import triton_kernels
from ramify.quant.packed import Packed
from ramify.quant.scheme import Plain
from ramify.weights.dummy import fill

PAGE, CONTEXT = 16, 8192
Row = tuple[list[int], list[int], int]  # tokens so far, pages, first position to compute


@dataclass(frozen=True)
class Size:
    """Of a model of Llama's shape, or with `experts` of Qwen3's: how many there are, how many of them compute a token,
    and their width. `head` is the size of one, if that is not what the hidden size leaves.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    dtype: torch.dtype
    head: int = 0
    experts: tuple[int, int, int] | None = None

    @property
    def head_dim(self) -> int:
        return self.head or self.hidden // self.heads


def config_of(size: Size, context: int) -> dict[str, Any]:
    """The config.json of a model of that size."""
    found: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size.vocab,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "intermediate_size": size.mlp,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "torch_dtype": str(size.dtype).removeprefix("torch."),
        "eos_token_id": None,
    }
    if size.experts is not None:
        count, chosen, width = size.experts
        found |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": count,
            "num_experts_per_tok": chosen,
            "moe_intermediate_size": width,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return found


class Served:
    """A model, and requests in pages of their own that are computed step by step."""

    def __init__(self, size: Size, device: torch.device, invariant: bool, pages: int, fp8: bool = False) -> None:
        self.size, head = size, size.head_dim
        config = parse_config(config_of(size, CONTEXT))
        dtype = str(size.dtype).removeprefix("torch.")
        self.device, self.kernels = device, triton_kernels(invariant)
        self.attention = TritonAttention(AttentionShape(size.heads, size.kv_heads, head, PAGE, dtype, "cuda"), device)
        linears = Packed(self.kernels.fp8, separate=True) if fp8 else Plain()
        made = Build(self.kernels, self.attention, linears, Plain(), size.dtype, device, config.context)
        self.model = (Llama if size.experts is None else Qwen3Moe)(made, config)
        _random(self.model)
        self.pool = KVCache(
            [KVPool(size.layers, pages, size.kv_heads, PAGE, head, size.dtype, device)], [0] * size.layers
        )
        self._pages = pages
        self._free = 1

    @property
    def slots(self) -> int:
        """Positions that the pool has room for."""
        return int(self.pool.pools[0].k.shape[1]) * PAGE

    def weights(self, users: int) -> float:
        """Bytes that a step of one token for each user reads; of experts those that somebody has chosen, if all choose
        at random.
        """
        found = 0.0
        for name, weight in self.model.named_parameters():
            if self.size.experts is not None and weight.dim() == 3:
                count, chosen, _ = self.size.experts
                found += weight.nbytes * (1 - (1 - chosen / count) ** users)
            elif "embedding" not in name:
                found += weight.nbytes
        return found

    def operations(self, tokens: int, reach: float) -> float:
        """Two for each weight that a token goes through, and those of attention over `reach` keys. The head is not
        counted: it is for few tokens of a prompt.
        """
        size = self.size
        mlp = size.mlp if size.experts is None else size.experts[1] * size.experts[2]
        layer = size.hidden * ((2 * size.heads + 2 * size.kv_heads) * size.head_dim + 3 * mlp)
        return tokens * size.layers * (2.0 * layer + 4.0 * reach * size.heads * size.head_dim)

    def pages(self, tokens: int) -> list[int]:
        """New ones; all begin anew when they are out."""
        needed = -(-tokens // PAGE)
        if self._free + needed > self._pages:
            self._free = 1
        self._free += needed
        return list(range(self._free - needed, self._free))

    def step(self, rows: list[Row]) -> Tensor:
        """The logits that follow each row, in float32."""
        batch = self.batch(rows)
        ends = [start + count - 1 for start, count in zip(batch.starts, batch.counts, strict=True)]
        return self.model.logits(self.model(batch)[self._numbers(ends)]).float()

    def batch(self, rows: list[Row]) -> Batch:
        counts = [len(tokens) - first for tokens, _, first in rows]
        starts, lengths = [sum(counts[:row]) for row in range(len(rows))], [len(tokens) for tokens, _, _ in rows]
        width = max(len(pages) for _, pages, _ in rows)
        tables = torch.tensor([pages + [0] * (width - len(pages)) for _, pages, _ in rows], dtype=torch.int32)
        places = [
            [pages[position // PAGE] * PAGE + position % PAGE for position in range(first, len(tokens))]
            for tokens, pages, first in rows
        ]
        return Batch(
            tokens_T=self._numbers([token for tokens, _, first in rows for token in tokens[first:]]),
            positions_T=self._numbers(
                [position for tokens, _, first in rows for position in range(first, len(tokens))]
            ),
            starts=starts,
            counts=counts,
            lengths=lengths,
            places=(
                Place(
                    self._numbers([place for each in places for place in each]),
                    self.attention.prepare(Paged(starts, counts, lengths, tables)),
                ),
            ),
            pool=self.pool,
        )

    def _numbers(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)


def _random(model: torch.nn.Module) -> None:
    for number, layer in enumerate(each for each in model.modules() if isinstance(each, Loadable)):
        for name in layer.declared():
            weight = layer.memory(name)
            fill(name, weight, torch.Generator(weight.device).manual_seed(number))
        layer.loaded()
