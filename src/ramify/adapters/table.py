"""Adapters over the linears of a model that is built and loaded: y += scale (x down') up', row by row.

They come from outside. A hook behind each linear that can be adapted adds what the adapters of the step's rows say,
whatever the linear's weight is stored as; neither the layer nor the model knows. A hook does nothing in a step in which
no row has an adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify.layers.linear import Linear
from ramify.models.adapted import Site
from ramify.ops.kernels import Kernels
from ramify.ops.lora import LowRank, LowRanks
from ramify.wire.plan import Moved

Fitted = Mapping[str, tuple[LowRank, ...]]  # what an adapter does, by the path of a layer


@dataclass(frozen=True)
class Place:
    """Where a module that can be adapted stands: in a layer, from output `begin` on."""

    layer: str
    begin: int
    inputs: int
    outputs: int


class AdapterTable:
    """`slots` adapters at once. Everything is called by the thread that runs the steps."""

    def __init__(self, model: nn.Module, sites: Mapping[str, Site], slots: int, kernels: Kernels, dtype: torch.dtype):
        self.places = _places(model, sites)
        self.dtype = dtype
        self._kernels = kernels
        self._runs_N3: Tensor | None = None
        self._fitted: dict[int, Fitted] = {}  # in memory, by id
        self._in_slot: list[int] = [0] * slots  # ids
        self._tables = {path: LowRanks(slots, most, dtype) for path, most in _parts(self.places.values()).items()}
        for path, table in self._tables.items():
            model.get_submodule(path).register_forward_hook(self._hook(table))

    def _hook(self, table: LowRanks) -> Any:
        lora = self._kernels.lora

        def add(layer: nn.Module, inputs: tuple[Tensor], y_TE: Tensor) -> None:
            if self._runs_N3 is not None:
                lora(y_TE, inputs[0], self._runs_N3, table)

        return add

    def hold(self, id: int, fitted: Fitted) -> None:
        """Plans may name it from now on. The one call that may come from any thread."""
        self._fitted[id] = fitted

    def forget(self, id: int) -> None:
        """No plan will name it again."""
        self._fitted.pop(id, None)
        if id in self._in_slot:
            self._put(self._in_slot.index(id), 0, {})

    def move(self, moved: Sequence[Moved]) -> None:
        for one in moved:
            self._put(one.slot, one.id, self._fitted[one.id])

    def compute(self, runs_N3: Tensor | None) -> None:
        self._runs_N3 = runs_N3

    @property
    def held(self) -> int:
        """How many are in memory."""
        return len(self._fitted)

    def _put(self, slot: int, id: int, fitted: Fitted) -> None:
        self._in_slot[slot] = id
        for path, table in self._tables.items():
            if fitted.get(path) or table[slot]:
                table.put(slot, fitted.get(path, ()))


def _places(model: nn.Module, sites: Mapping[str, Site]) -> dict[str, Place]:
    """Sites whose layer is a plain linear, with where their outputs begin in it."""
    found = {}
    for name, site in sites.items():
        layer = model.get_submodule(site.layer)
        if type(layer) is Linear:
            part = layer.parts_of("weight").get(site.part)
            found[name] = Place(site.layer, 0 if part is None else part.first, site.inputs, site.outputs)
    return found


def _parts(places: Iterable[Place]) -> dict[str, int]:
    """How many modules stand in each layer."""
    counted: dict[str, int] = {}
    for place in places:
        counted[place.layer] = counted.get(place.layer, 0) + 1
    return counted
