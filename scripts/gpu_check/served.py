"""A model with random weights, and requests in pages of their own that are computed step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.batch import Batch, Place
from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.memory.kv import KVCache, KVPool
from ramify.models.llama import Llama
from ramify.ops.attention import AttentionShape, Paged
from ramify.ops.triton.attention import TritonAttention
from ramify.ops.triton.kernels import triton_kernels
from ramify.quant.scheme import Plain
from ramify.weights.dummy import fill

PAGE = 16
Row = tuple[list[int], list[int], int]  # tokens so far, pages, first position to compute


@dataclass(frozen=True)
class Size:
    """Of a model of Llama's shape."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    dtype: torch.dtype


class Served:
    """A model, and requests in pages of their own that are computed step by step."""

    def __init__(self, size: Size, device: torch.device, invariant: bool, pages: int) -> None:
        self.size, head = size, size.hidden // size.heads
        config = ModelConfig(
            architecture="LlamaForCausalLM", vocab=size.vocab, hidden=size.hidden, layers=size.layers, heads=size.heads,
            kv_heads=size.kv_heads, head_dim=head, mlp=size.mlp, norm_eps=1e-5, activation="silu", rope=Rope(),
            context=8192, tied=False, dtype=str(size.dtype), attention_bias=False, mlp_bias=False, window=None,
            eos_ids=(), windowed=(False,) * size.layers,
        )  # fmt: skip
        dtype = str(size.dtype).removeprefix("torch.")
        self.device, self.kernels = device, triton_kernels(invariant)
        self.attention = TritonAttention(AttentionShape(size.heads, size.kv_heads, head, PAGE, dtype, "cuda"), device)
        self.model = Llama(
            Build(self.kernels, self.attention, Plain(), Plain(), size.dtype, device, config.context), config
        )
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

    def operations(self, prompt: int) -> float:
        """That a prompt takes: two for each weight and token, and those of causal attention."""
        size, weights = self.size, sum(weight.numel() for weight in self.model.layers.parameters())
        return 2.0 * weights * prompt + 2.0 * prompt * prompt * size.hidden * size.layers

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
