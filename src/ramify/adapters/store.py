"""From the folder of an adapter to what stands over the linears of the model that is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ramify.adapters.peft import AdapterFile, Limits, Pair, read
from ramify.adapters.table import AdapterTable, Fitted, Place
from ramify.config.adapters import AdapterPlan
from ramify.core.errors import BadRequest
from ramify.ops.lora import LowRank

FILE = "adapter_model.safetensors"


class AdapterStore:
    """A `registry.Store`. `in_turn` has something done by the thread that runs the steps, after what was launched."""

    def __init__(self, table: AdapterTable, plan: AdapterPlan, in_turn: Callable[[Callable[[], None]], Any]) -> None:
        self._table, self._in_turn = table, in_turn
        self._limits, self._targets = Limits(plan.rank), plan.targets

    def read(self, id: int, name: str, path: str) -> int:
        file = read(name, Path(path), self._limits)
        self._table.hold(id, fitted(file, self._table.places, self._table.dtype, self._targets))
        return file.rank

    def forget(self, id: int) -> None:
        self._in_turn(lambda: self._table.forget(id))


def fitted(file: AdapterFile, places: Mapping[str, Place], dtype: torch.dtype, targets: tuple[str, ...]) -> Fitted:
    """What an adapter does to each layer; raises `BadRequest` that names what has no place here."""
    _refuse_vocabulary(file)
    found: dict[str, list[LowRank]] = {}
    for module, pair in file.tensors.items():
        place = places.get(module)
        if place is None:
            raise BadRequest(
                f"the adapter {file.name!r} changes {module}, which this server does not adapt; it adapts "
                f"{', '.join(targets)} (--lora-target-modules)",
                param="lora_path",
                code="adapter_target",
            )
        found.setdefault(place.layer, []).append(_low_rank(module, pair, place, dtype))
    return {layer: tuple(sorted(parts, key=lambda part: part.begin)) for layer, parts in found.items()}


def _refuse_vocabulary(file: AdapterFile) -> None:
    for module in (*file.embeddings, *file.whole):
        raise BadRequest(
            f"the adapter {file.name!r} changes {module}: embeddings and heads are not adapted in this version",
            param="lora_path",
            code="adapter_target",
        )


def _low_rank(module: str, pair: Pair, place: Place, dtype: torch.dtype) -> LowRank:
    inputs, outputs = pair.down_RD.shape[1], pair.up_ER.shape[0]
    if (inputs, outputs) != (place.inputs, place.outputs):
        raise BadRequest(
            f"{FILE}: {module} goes from {inputs} numbers to {outputs}, and in this model from {place.inputs} to "
            f"{place.outputs}: the adapter is of another model",
            param="lora_path",
            code="adapter_shape",
        )
    return LowRank(pair.down_RD, pair.up_ER, pair.scale, place.begin).arranged(dtype)
