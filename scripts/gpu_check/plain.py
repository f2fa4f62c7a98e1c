"""A plain decode loop for one user: torch's own operations, a cache of a fixed size, one graph that is replayed.

What a careful reader writes in an afternoon, and what an engine must not be slower than.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from served import Size
from torch import Tensor
from torch.nn import functional as F

THETA = 500000.0


class PlainLlama:
    """Llama with random weights, one token at a time; `position` and `token` are where the graph reads."""

    def __init__(self, size: Size, device: torch.device, context: int) -> None:
        self._size, self._head = size, size.head_dim

        def weight(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, device=device, dtype=size.dtype) * columns**-0.5

        both = (size.heads + 2 * size.kv_heads) * self._head
        self._layers = [
            (
                weight(both, size.hidden),
                weight(size.hidden, size.hidden),
                weight(2 * size.mlp, size.hidden),
                weight(size.hidden, size.mlp),
            )
            for _ in range(size.layers)
        ]
        self._embedding, self._out = weight(size.vocab, size.hidden), weight(size.vocab, size.hidden)
        self._norm = torch.ones(size.hidden, device=device, dtype=size.dtype)
        shape = (size.layers, 2, 1, size.kv_heads, context, self._head)
        self._cache = torch.zeros(shape, device=device, dtype=size.dtype)
        angles = torch.outer(torch.arange(context), THETA ** -(torch.arange(0, self._head, 2) / self._head))
        self._cos, self._sin = angles.cos().to(device), angles.sin().to(device)
        self._places = torch.arange(context, device=device)
        self.token = torch.ones(1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)

    def step(self) -> None:
        """The next token, in place."""
        seen = (self._places <= self.position)[None, None, None]
        x = F.embedding(self.token, self._embedding)
        for index, (qkv, out, up, down) in enumerate(self._layers):
            x = x + F.linear(self._attend(F.linear(self._normed(x), qkv), index, seen), out)
            gate, wide = F.linear(self._normed(x), up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * wide, down)
        self.token.copy_(F.linear(self._normed(x), self._out).argmax(-1))
        self.position.add_(1)

    def _normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self._size.hidden,), self._norm, 1e-5)

    def _attend(self, qkv: Tensor, index: int, seen: Tensor) -> Tensor:
        size, head = self._size, self._head
        q, k, v = qkv.view(1, -1, head).split((size.heads, size.kv_heads, size.kv_heads), 1)
        keys, values = self._cache[index]
        keys.index_copy_(2, self.position, self._turned(k)[:, :, None])
        values.index_copy_(2, self.position, v[:, :, None])
        y = F.scaled_dot_product_attention(self._turned(q)[:, :, None], keys, values, seen, enable_gqa=True)
        return y.reshape(1, -1)

    def _turned(self, x: Tensor) -> Tensor:
        cos, sin = self._cos[self.position].to(x.dtype), self._sin[self.position].to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def captured(compute: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same as a graph; on a CPU as it is."""
    if device.type == "cpu":
        return compute
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            compute()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay
