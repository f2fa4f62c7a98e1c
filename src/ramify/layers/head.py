"""What is computed of pooled hidden states: dense layers and unit length, or a classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.layers.build import Build
from ramify.layers.linear import Linear
from ramify.layers.norm import LayerNorm

ELSEWHERE = ("none", "own")  # there is no classifier, or its code is not here
BETWEEN = {"bert": "tanh", "roberta": "tanh", "mlp_score": "relu"}


class Classifier(nn.Module):
    """outer(norm(activation(inner(x)))), of which a plain one has only `outer`."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        head, hidden = config.head, config.hidden
        assert head is not None
        modern = head.classifier == "modernbert"
        plain = head.classifier == "score"
        bias = not modern or config.raw.get("classifier_bias") is True
        self.inner = None if plain else Linear(build, hidden, hidden, bias=bias)
        self.activation = "gelu" if modern else BETWEEN.get(head.classifier, "identity")
        self.norm = None
        if modern:
            assert config.encoder is not None
            self.norm = LayerNorm(build, hidden, config.norm_eps, config.encoder.norm_bias)
        self.outer = Linear(build, hidden, head.size, bias=not plain)

    def forward(self, x_ND: Tensor) -> Tensor:
        if self.inner is not None:
            x_ND = apply(self.activation, self.inner(x_ND))
        return self.outer(x_ND if self.norm is None else self.norm(x_ND))


class PooledHead(nn.Module):
    """From [N, D] in the model's type to [N, size] in fp32; every row by itself, whatever is beside it."""

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        assert config.head is not None
        self.size = config.head.size
        self._dtype, self._normalize = build.dtype, config.head.normalize
        self._activations = [dense.activation for dense in config.head.dense]
        self.dense = nn.ModuleList(Linear(build, d.inputs, d.outputs, bias=d.bias) for d in config.head.dense)
        here = config.head.classifier not in ELSEWHERE
        self.classifier: nn.Module | None = Classifier(build, config) if here else None

    def forward(self, x_ND: Tensor) -> Tensor:
        """`x_ND` in fp32. Of no rows there are none."""
        if not len(x_ND):
            return x_ND.new_empty(0, self.size)
        for dense, activation in zip(self.dense, self._activations, strict=True):
            x_ND = apply(activation, dense(x_ND.to(self._dtype)))
        if self.classifier is not None:
            x_ND = self.classifier(x_ND.to(self._dtype))
        x_ND = x_ND.float()
        return torch.stack([F.normalize(x_D, dim=0) for x_D in x_ND]) if self._normalize else x_ND


def apply(name: str, x: Tensor) -> Tensor:
    """An activation by name; always torch's, as few numbers as there are."""
    if name == "identity":
        return x
    return FUNCTIONS[name](x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
}
