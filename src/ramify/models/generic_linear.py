"""Linears and embeddings of transformers' code, replaced by ours: stored as the scheme of the build has it, computed by
our kernels. They take inputs of any number of dimensions, as torch's do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ramify.layers.build import Build
from ramify.layers.linear import WHOLE, Embedding, Linear
from ramify.layers.loadable import Loadable
from ramify.quant.choose import unquantized


class AnyLinear(Linear):
    """In the place of `nn.Linear`."""

    def __init__(self, build: Build, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(build, inputs, outputs, bias)
        self.in_features, self.out_features = inputs, outputs

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)


class AnyEmbedding(nn.Module):
    """In the place of `nn.Embedding`."""

    def __init__(self, table: Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens.reshape(-1)).view(*tokens.shape, -1)


class TiedLinear(nn.Module):
    """In the place of a head whose weight is an embedding's."""

    def __init__(self, table: Embedding, bias: Tensor | None) -> None:
        super().__init__()
        self.table, self.bias = table, bias

    def forward(self, x: Tensor) -> Tensor:
        y = self.table.head(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def replace_linears(model: nn.Module, build: Build, head: nn.Module | None) -> None:
    """One after the other, so that the model never stands in memory twice. `head` is what gives logits.

    A linear beside experts is a router and is not quantized. Subclasses compute something of their own and stay.
    """
    tables: dict[int, Embedding] = {}
    for parent, name, module in _found(model, (nn.Embedding,), build):
        if module.max_norm is None:
            key = id(module.weight)
            tables[key] = tables.get(key) or _table(build, module)
            setattr(parent, name, AnyEmbedding(tables[key]))
    for parent, name, module in _found(model, (nn.Linear, Conv1D), build):
        if id(module.weight) in tables:
            bias = getattr(module, "bias", None)
            setattr(parent, name, TiedLinear(tables[id(module.weight)], bias))
            continue
        router = hasattr(parent, "experts")
        scheme = unquantized(build.kernels) if router else build.vocabulary if module is head else build.scheme
        setattr(parent, name, _linear(replace(build, scheme=scheme), module))


def _found(model: nn.Module, kinds: tuple[type, ...], build: Build) -> Iterator[tuple[nn.Module, str, Any]]:
    """Modules of exactly these classes in the type of the build, with what holds them."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) in kinds and module.weight.dtype is build.dtype:
                yield parent, name, module


def _table(build: Build, module: nn.Embedding) -> Embedding:
    table = Embedding(build, *module.weight.shape)
    _fill(table, module.weight, None)
    return table


def _linear(build: Build, module: Any) -> AnyLinear:
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    made = AnyLinear(build, weight.shape[1], weight.shape[0], module.bias is not None)
    _fill(made, weight, module.bias)
    return made


def _fill(layer: Linear | Embedding, weight: Tensor, bias: Tensor | None) -> None:
    layer.accept("weight", WHOLE, weight, "")
    if bias is not None:
        layer.accept("bias", WHOLE, bias, "")
    layer.loaded()


def ours(model: nn.Module) -> set[int]:
    """What of a model's parameters stands in layers of ours."""
    return {id(p) for module in model.modules() if isinstance(module, Loadable) for p in module.parameters()}
