"""A layer that knows how its weights are stored: where a checkpoint's tensor goes, and what is still missing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ramify.core.errors import StartupError
from ramify.quant.stored import Stored, write


@dataclass(frozen=True)
class Part:
    """A run of rows of a parameter, filled by one tensor of the checkpoint."""

    first: int
    rows: int


class Loadable(nn.Module):
    """`declare` a weight with its parts, `accept` tensors for them, and `missing` names what never came."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, dict[str, Part]] = {}
        self._missing: set[tuple[str, str]] = set()

    def declare(
        self, name: str, shape: tuple[int, ...], parts: dict[str, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        """A parameter `name`, whose first dimension is divided into `parts` (name -> rows).

        It takes no memory before the first of its tensors comes: a scheme that stores weights smaller than they are
        in the checkpoint has given up most layers by the time that the last one is read.
        """
        self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False))
        self._device = device
        first = 0
        self._parts[name] = {}
        for part, rows in parts.items():
            self._parts[name][part] = Part(first, rows)
            self._missing.add((name, part))
            first += rows

    def accept(self, name: str, part: str, tensor: Tensor | Stored, source: str) -> None:
        """Copy a checkpoint's tensor in, dequantized if it is quantized; `source` is its name there, for errors.

        A part that has not been declared is all of the weight: some checkpoints store fused what others store apart.
        """
        parameter = self.memory(name)
        parts = self._parts[name]
        where = parts[part] if part in parts else Part(0, len(parameter))
        target = parameter[where.first : where.first + where.rows]
        if target.shape != tuple(tensor.shape):
            raise StartupError(
                f"tensor {source} has the shape {list(tensor.shape)} and the configuration asks for "
                f"{list(target.shape)}",
                "The checkpoint and its config.json do not belong together.",
            )
        if isinstance(tensor, Tensor):
            target.copy_(tensor)
        else:
            write(tensor, target)
        self.came(name, part)

    def came(self, name: str, part: str) -> None:
        """A part is there."""
        parts = self._parts[name]
        self._missing -= {(name, each) for each in ([part] if part in parts else parts)}

    def parts_of(self, name: str) -> dict[str, Part]:
        """The runs of rows of a declared parameter."""
        return self._parts[name]

    def declared(self) -> list[str]:
        """The names of its parameters."""
        return list(self._parts)

    def _empty(self, declared: Tensor) -> Tensor:
        """Not by `empty_like`: of what has no memory yet torch would make it with its compiler, and import that."""
        return torch.empty(declared.shape, dtype=declared.dtype, device=self._device)

    def memory(self, name: str) -> Tensor:
        """The tensor of a declared parameter, not initialised when it is asked for first."""
        parameter: Tensor = getattr(self, name)
        if parameter.is_meta:
            parameter = nn.Parameter(self._empty(parameter), requires_grad=False)
            setattr(self, name, parameter)
        return parameter

    def loaded(self) -> None:
        """All tensors are in."""

    def missing(self) -> list[str]:
        """Parts that nothing was loaded into, as `name:part`."""
        return sorted(f"{name}:{part}" for name, part in self._missing)
