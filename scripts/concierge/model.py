"""The network that is trained: the Qwen3 architecture, written for packed documents on a CPU.

Parameter names follow Hugging Face's `Qwen3ForCausalLM`, so a checkpoint needs no renaming on export. All documents of
a micro-batch lie one after another in one flat sequence; attention runs per document, so no document sees another and
nothing is spent on padding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The numbers that define the network."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_layers: int = 8
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    def to_dict(self) -> dict[str, int | float]:
        """Return the shape as plain data, for checkpoints."""
        return asdict(self)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rope_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine of every rotation angle, [positions, head_dim / 2] each."""
    half = shape.head_dim // 2
    frequency = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.outer(torch.arange(shape.max_positions, dtype=torch.float32), frequency)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of every head by the angle of its position; x is [tokens, heads, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Causal attention inside each document; q, k and v are [tokens, heads, head_dim] with equally many heads."""
    pieces = []
    for q_doc, k_doc, v_doc in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        out = F.scaled_dot_product_attention(
            q_doc.transpose(0, 1)[None], k_doc.transpose(0, 1)[None], v_doc.transpose(0, 1)[None], is_causal=True
        )
        pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces).flatten(1)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.groups = shape.num_heads // shape.num_kv_heads
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps)
        self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:
        heads = (x.shape[0], -1, self.head_dim)
        q = rotate(self.q_norm(self.q_proj(x).view(heads)), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(heads)), cos, sin)
        v = self.v_proj(x).view(heads)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)
        return self.o_proj(attend(q, k, v, lengths))


class MLP(nn.Module):
    """The gated feed-forward part of a layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One transformer layer, normalised before each part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, lengths)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        positions = torch.cat([torch.arange(n, device=tokens.device) for n in lengths])
        cos, sin = self.cos[positions], self.sin[positions]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, lengths)
        return self.norm(x)


class Concierge(nn.Module):
    """The language model; the output projection is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.reset()

    def reset(self) -> None:
        """Draw the starting weights; the last matrix of each branch is zero, so that a layer begins as the identity."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif "embed" in name:
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def logits(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """Return the logits [tokens, vocabulary] of packed documents."""
        return F.linear(self.model(tokens, lengths), self.model.embed_tokens.weight)

    def losses(self, tokens: Tensor, targets: Tensor, lengths: list[int], counted: Tensor, chunk: int = 1024) -> Tensor:
        """Return the cross-entropy of the counted tokens; in chunks, so that the logits stay in the cache."""
        hidden = self.model(tokens, lengths)[counted]
        table = self.model.embed_tokens.weight
        pieces = [
            F.cross_entropy(F.linear(part, table), target, reduction="none")
            for part, target in zip(hidden.split(chunk), targets[counted].split(chunk), strict=True)
        ]
        return torch.cat(pieces)
