"""From the folder of an adapter to what stands behind the layers of the model that is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ramify.adapters.peft import WEIGHTS, AdapterFile, Limits, Pair, read
from ramify.adapters.table import AdapterTable, Fitted, Place, fitted_of
from ramify.config.adapters import AdapterPlan
from ramify.core.errors import BadRequest
from ramify.ops.lora import LowRank

ROOT = "model."  # missing where a backbone was adapted alone


class AdapterStore:
    """A `registry.Store`. `in_turn` has something done by the thread that runs the steps, after what was launched."""

    def __init__(self, table: AdapterTable, plan: AdapterPlan, in_turn: Callable[[Callable[[], None]], Any]) -> None:
        self._table, self._in_turn, self._plan = table, in_turn, plan

    def read(self, id: int, name: str, path: str) -> int:
        file = read(name, Path(path), Limits(self._plan.rank))
        self._table.hold(id, Fitting(file, self._table, self._plan).fitted())
        return file.rank

    def forget(self, id: int) -> None:
        self._in_turn(lambda: self._table.forget(id))


class Fitting:
    """What an adapter does to each layer; raises `BadRequest` that names what has no place here."""

    def __init__(self, file: AdapterFile, table: AdapterTable, plan: AdapterPlan) -> None:
        self._file, self._places, self._dtype, self._plan = file, table.places, table.dtype, plan

    def fitted(self) -> Fitted:
        for module, weight_VD in (*self._file.whole.items(), *self._file.bases.items()):
            self._check_whole(module, tuple(weight_VD.shape))
        parts = [self._part(module, pair) for module, pair in self._file.tensors.items()]
        looked_up = [(self._place(module, pair), pair) for module, pair in self._file.embeddings.items()]
        rows = {place.layer: pair.down_RD.to(self._dtype).T.contiguous() for place, pair in looked_up}
        parts += [(place, self._expanding(pair)) for place, pair in looked_up]
        return fitted_of(parts, rows)

    def _check_whole(self, module: str, shape: tuple[int, ...]) -> None:
        """PEFT saves what an adapted embedding or head was beside its pair; alone it is another one."""
        place = self._places.get(module)
        if module not in self._file.tensors and module not in self._file.embeddings:
            raise self._refusal(module, "as a whole and not by a low rank, which is not supported: merge it")
        if place is not None and shape not in ((place.inputs, place.outputs), (place.outputs, place.inputs)):
            raise self._refusal(module, f"which has {shape[0]} tokens there: added tokens are not supported")

    def _part(self, module: str, pair: Pair) -> tuple[Place, LowRank]:
        place = self._place(module, pair)
        up_ER = pair.up_ER if place.order_E is None else pair.up_ER[place.order_E]
        return place, LowRank(pair.down_RD, up_ER, pair.scale, place.begin).arranged(self._dtype)

    def _expanding(self, pair: Pair) -> LowRank:
        """What was looked up stays as it is before it is expanded."""
        eye_RD = torch.eye(self._plan.rank)[: pair.down_RD.shape[0]]
        return LowRank(eye_RD, pair.up_ER, pair.scale).arranged(self._dtype)

    def _place(self, module: str, pair: Pair) -> Place:
        place = self._places.get(module) or self._places.get(f"{ROOT}{module}")
        is_embedding = module in self._file.embeddings
        if place is None or (place.kind == "embedding") != is_embedding:
            known = ", ".join(self._plan.targets)
            raise self._refusal(module, f"which this server does not adapt; it adapts {known} (--lora-target-modules)")
        sizes = pair.down_RD.shape[1], pair.up_ER.shape[0]
        if sizes != (place.inputs, place.outputs):
            raise BadRequest(
                f"{WEIGHTS}: {module} goes from {sizes[0]} numbers to {sizes[1]}, and in this model from "
                f"{place.inputs} to {place.outputs}: the adapter is of another model",
                param="lora_path",
                code="adapter_shape",
            )
        return place

    def _refusal(self, module: str, why: str) -> BadRequest:
        text = f"the adapter {self._file.name!r} changes {module}, {why}"
        return BadRequest(text, param="lora_path", code="adapter_target")
