"""Linear layers, several projections of the same input fused into one where the model has them."""

from __future__ import annotations

from torch import Tensor

from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.quant.stored import Stored

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

    def multiply(self, x_TD: Tensor) -> Tensor:
        return self._scheme.apply(self, x_TD, self._kernels)


class Linear(Weighted):
    """y = x W' + b. `parts` names fused projections with their output sizes: `{"q": 512, "k": 128, "v": 128}`."""

    def __init__(self, build: Build, inputs: int, parts: int | dict[str, int], bias: bool = False) -> None:
        super().__init__(build, inputs, {WHOLE: parts} if isinstance(parts, int) else parts, bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.multiply(x_TD)


class Embedding(Weighted):
    """Rows of a table by token id; `head` multiplies by the same table where input and output embedding are tied."""

    def __init__(self, build: Build, vocab: int, hidden: int) -> None:
        super().__init__(build.of_vocabulary, hidden, {WHOLE: vocab}, bias=False)

    def forward(self, tokens_T: Tensor) -> Tensor:
        return self._scheme.rows(self, tokens_T, self._kernels)

    def head(self, x_TD: Tensor) -> Tensor:
        return self.multiply(x_TD)
