"""Linear layers, several projections of the same input fused into one where the model has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.ops.kernels import Packing
from ramify.quant.stored import Stored, reordered

WHOLE = "all"  # the one part of a weight that is not fused


class Weighted(Loadable):
    """A weight that is stored as the scheme of the build has it."""

    def __init__(self, build: Build, inputs: int, parts: dict[str, int], bias: bool) -> None:
        super().__init__()
        self._kernels, self._scheme = build.kernels, build.scheme
        self._scheme.create(self, inputs, parts, bias, build.dtype, build.device)

    def accept(self, name: str, part: str, tensor: Tensor | Stored, source: str) -> None:
        """What the scheme does not keep as it is stored is copied in."""
        if name == "weight" and not isinstance(tensor, Tensor) and self._scheme.accepts(self, part, tensor):
            self.came(name, part)
        else:
            super().accept(name, part, tensor, source)

    def loaded(self) -> None:
        """All tensors are in: let the scheme pack them, if it does."""
        self._scheme.loaded(self, self._kernels)

    def packed(self) -> tuple[Packing, Tensor] | None:
        """What it multiplies by, where that is one packed weight and nothing beside it."""
        return self._scheme.packed(self)

    def let_go(self) -> None:
        """Of its weight, which others have now."""
        for module in self.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor):
                module.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)

    def multiply(self, x_TD: Tensor) -> Tensor:
        return self._scheme.apply(self, x_TD, self._kernels)


class Linear(Weighted):
    """y = x W' + b. `parts` names fused projections with their output sizes: `{"q": 512, "k": 128, "v": 128}`."""

    def __init__(self, build: Build, inputs: int, parts: int | dict[str, int], bias: bool = False) -> None:
        super().__init__(build, inputs, {WHOLE: parts} if isinstance(parts, int) else parts, bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.multiply(x_TD)


class Interleaved(Linear):
    """Parts whose rows a checkpoint has group by group, each with a few of every kind: `groups` says how many groups a
    part has, and how many rows of each kind are in one. Here all of a kind stand together.
    """

    def __init__(
        self,
        build: Build,
        inputs: int,
        parts: dict[str, int],
        groups: dict[str, tuple[int, list[int]]],
        bias: bool = False,
    ) -> None:
        super().__init__(build, inputs, parts, bias)
        self._interleaved = groups

    def accept(self, name: str, part: str, tensor: Tensor | Stored, source: str) -> None:
        order_E = self.order_of(part)
        if order_E is not None and len(order_E) == tensor.shape[0]:
            tensor = tensor[order_E] if isinstance(tensor, Tensor) else reordered(tensor, order_E)
        super().accept(name, part, tensor, source)

    def order_of(self, part: str) -> Tensor | None:
        """Which row of a checkpoint's part each of ours is; None where they are in order."""
        if part not in self._interleaved:
            return None
        groups, sizes = self._interleaved[part]
        return apart(torch.arange(groups * sum(sizes)), groups, sizes)


def apart(rows: Tensor, groups: int, sizes: list[int]) -> Tensor:
    """Rows of several kinds, group by group, as kind after kind."""
    return torch.cat([kind.flatten(0, 1) for kind in rows.unflatten(0, (groups, -1)).split(sizes, dim=1)])


class Embedding(Weighted):
    """Rows of a table by token id; `head` multiplies by the same table where input and output embedding are tied."""

    def __init__(self, build: Build, vocab: int, hidden: int) -> None:
        super().__init__(build.of_vocabulary, hidden, {WHOLE: vocab}, bias=False)

    def forward(self, tokens_T: Tensor) -> Tensor:
        return self._scheme.rows(self, tokens_T, self._kernels)

    def head(self, x_TD: Tensor) -> Tensor:
        return self.multiply(x_TD)


class TiedHead(nn.Module):
    """A head that multiplies by an embedding's table, which stays the embedding's alone."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self._multiply = embedding.head

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._multiply(x_TD)
