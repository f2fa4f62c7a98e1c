"""Adapters over the layers of a model that is built and loaded: y += scale (x down') up', row by row.

They come from outside. A hook behind each layer that can be adapted adds what the adapters of the rows say, however the
layer's weight is stored; neither the layer nor the model knows. A hook does nothing where no row has an adapter.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ramify.adapters.own import BehindOwnEmbedding, BehindOwnHead, OwnHead, OwnRows, OwnRuns, Run
from ramify.layers.linear import Embedding, Interleaved, Linear, TiedHead
from ramify.layers.moe import Experts, GroupedLinear
from ramify.layers.separate import SeparateLinear
from ramify.models.adapted import Kind, Site, expert_of
from ramify.ops.kernels import Kernels
from ramify.ops.lora import LowRank, LowRanks, Runs
from ramify.ops.staging import Staging
from ramify.wire.plan import Moved

Parts = Mapping[int, tuple[LowRank, ...]]  # by group: the number of an expert, 0 where there are none
NOTHING: Parts = {}
LAYER = re.compile(r"(?:backbone\.)?layers\.(\d+)\.mlp\.experts\.\w+")


@dataclass(frozen=True)
class Place:
    """Where a module that can be adapted stands: in a layer, in a group of it, from output `begin` on; its outputs in
    another order than a checkpoint has them, where there is one. All experts together stand in so many `groups`.
    """

    layer: str
    group: int
    begin: int
    inputs: int
    outputs: int
    kind: Kind
    order_E: Tensor | None = None
    groups: int = 1


@dataclass(frozen=True)
class Fitted:
    """What an adapter does, by the path of a layer. Of an embedding `rows` has what is looked up for each token,
    [V, R], and `layers` what becomes of that. `vocab` is how many tokens it has, 0 for as many as the model; what it
    has of embedding and head for itself stands in place of the model's.
    """

    layers: Mapping[str, Parts]
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    vocab: int = 0
    own_embedding: OwnRows | None = None
    own_head: OwnHead | None = None

    def on(self, device: torch.device) -> Fitted:
        return replace(
            self,
            layers={
                path: {group: tuple(part.on(device) for part in parts) for group, parts in groups.items()}
                for path, groups in self.layers.items()
            },
            rows={path: rows_VR.to(device) for path, rows_VR in self.rows.items()},
            own_embedding=None if self.own_embedding is None else self.own_embedding.on(device),
            own_head=None if self.own_head is None else self.own_head.on(device),
        )


class Current(threading.local):
    """Which rows of what a thread computes next have an adapter: those of the step, and sorted by expert as the next
    layers have them.
    """

    def __init__(self, own: OwnRuns) -> None:
        self.rows_N3: Tensor | None = None
        self.sorted_R3: Tensor | None = None
        self.own = own


class Behind(Protocol):
    """What stands behind a layer."""

    def attach(self, model: nn.Module, path: str) -> None: ...
    def put(self, slot: int, fitted: Fitted, path: str) -> None: ...


class AdapterTable:
    """`slots` adapters at once, of rank `rank` at most, and with so many `added` tokens. Of `vocabulary`, embeddings
    and heads, they may have rows of their own. Called by the thread that runs the steps, but for `hold`.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, Site],
        slots: int,
        rank: int,
        kernels: Kernels,
        dtype: torch.dtype,
        vocabulary: Mapping[str, Site] | None = None,
        added: int = 0,
        staging: Staging | None = None,
    ) -> None:
        self.places = _places(model, sites)
        self.vocabulary = _places(model, vocabulary or {})
        self.dtype, self.kernels, self._added = dtype, kernels, added
        self._device, self._staging = next(model.parameters()).device, staging
        self._runs = Current(OwnRuns())
        self.vocab, self.hidden, self.is_tied = 0, 0, False
        self._vocabs: dict[int, int] = {}  # by slot, where it is not the model's
        self._own_embedding: BehindOwnEmbedding | None = None
        self._own_head: BehindOwnHead | None = None
        self._take_over(model)
        self._fitted: dict[int, Fitted] = {}  # in memory, by id
        self._in_slot: list[int] = [0] * slots  # ids
        self._behind: dict[str, Behind] = {}
        by_layer = sorted(self.places.values(), key=lambda place: place.layer)
        for path, some in groupby(by_layer, key=lambda place: place.layer):
            self._behind[path] = self._made(list(some), slots, rank, kernels)
            self._behind[path].attach(model, path)

    def _made(self, places: list[Place], slots: int, rank: int, kernels: Kernels) -> Behind:
        groups = max(max(place.group + 1, place.groups) for place in places)
        table = LowRanks(slots * groups, -(-len(places) // groups), self.dtype, rank, self._device, self._staging)
        if places[0].kind in ("expert", "experts"):
            return BehindExperts(table, groups, self._runs, kernels)
        if places[0].kind == "embedding":
            rows_SVR = torch.zeros(slots, places[0].inputs + self._added, rank, dtype=self.dtype, device=self._device)
            return BehindEmbedding(table, rows_SVR, self._runs, kernels)
        return BehindLinear(table, self._runs, kernels)

    def _take_over(self, model: nn.Module) -> None:
        """Before low ranks are added."""
        for place in self.vocabulary.values():
            if place.kind == "embedding":
                self.vocab, self.hidden = place.inputs, place.outputs
                self._own_embedding = BehindOwnEmbedding(self._runs.own, self.vocab)
                self._own_embedding.attach(model, place.layer)
            else:
                self.is_tied = place.kind == "head" and isinstance(model.get_submodule(place.layer), TiedHead)
                self._own_head = BehindOwnHead(self._runs.own, self.kernels)
                self._own_head.attach(model, place.layer)

    def stack(self, layer: int, inputs: int, outputs: int) -> Place | None:
        """All experts of a layer, of one of their two tensors, which the sizes tell; None where there is no such."""
        there = [place for place in self.places.values() if _layer_of(place) == layer and place.kind != "linear"]
        for path in {place.layer for place in there}:
            parts = [place for place in there if place.layer == path]
            first = parts[0]
            of_one = [place.outputs for place in parts if place.group == first.group]
            if (first.inputs, sum(of_one)) == (inputs, outputs):
                groups = max(max(place.group + 1, place.groups) for place in parts)
                return replace(first, group=0, begin=0, outputs=outputs, groups=groups)
        return None

    def hold(self, id: int, fitted: Fitted) -> None:
        """Plans may name it from now on. From any thread."""
        self._fitted[id] = fitted.on(self._device)

    def forget(self, id: int) -> None:
        """No plan will name it again."""
        self._fitted.pop(id, None)
        if id in self._in_slot:
            self._put(self._in_slot.index(id), 0, Fitted({}))

    def move(self, moved: Sequence[Moved]) -> None:
        for one in moved:
            self._put(one.slot, one.id, self._fitted[one.id])

    def compute(self, runs: Runs | None) -> None:
        self._runs.rows_N3 = None if runs is None else runs.rows_N3
        own = self._runs.own
        own.of_embedding = self._having(runs, self._own_embedding)
        own.of_head = self._having(runs, self._own_head)

    @property
    def can_record(self) -> bool:
        return not self._runs.own.of_embedding

    def widths(self, adapters: Sequence[int]) -> list[int] | None:
        if not self._vocabs:
            return None
        return [self._vocabs.get(slot, self.vocab) for slot in adapters]

    @staticmethod
    def _having(runs: Runs | None, behind: BehindOwnEmbedding | BehindOwnHead | None) -> list[Run]:
        """Runs of slots that have rows of their own there."""
        if runs is None or behind is None or not behind.slots:
            return []
        return [(start, stop, slot) for start, stop, slot in runs.known if stop > start and slot in behind.slots]

    @property
    def held(self) -> list[int]:
        """Ids of what is in memory."""
        return sorted(self._fitted)

    def _put(self, slot: int, id: int, fitted: Fitted) -> None:
        self._in_slot[slot] = id
        for path, behind in self._behind.items():
            behind.put(slot, fitted, path)
        if self._own_embedding is not None:
            self._own_embedding.put(slot, fitted.own_embedding)
        if self._own_head is not None:
            self._own_head.put(slot, fitted.own_head)
        self._vocabs.pop(slot, None)
        if fitted.vocab not in (0, self.vocab):
            self._vocabs[slot] = fitted.vocab


class BehindLinear:
    """Behind a linear, and behind a head, whose rows are those that are asked for logits."""

    def __init__(self, table: LowRanks, runs: Current, kernels: Kernels) -> None:
        self._table, self._runs, self._lora = table, runs, kernels.lora

    def attach(self, model: nn.Module, path: str) -> None:
        model.get_submodule(path).register_forward_hook(self._add)

    def put(self, slot: int, fitted: Fitted, path: str) -> None:
        _put(self._table, slot, fitted.layers.get(path, NOTHING).get(0, ()))

    def _add(self, layer: nn.Module, inputs: tuple[Tensor], y_TE: Tensor) -> None:
        if self._runs.rows_N3 is not None:
            self._lora(y_TE, inputs[0], self._runs.rows_N3, self._table)


class BehindExperts:
    """Behind a layer of several experts, whose rows are sorted by expert. An expert under an adapter is an entry of the
    table: slot x groups + group.
    """

    def __init__(self, table: LowRanks, groups: int, runs: Current, kernels: Kernels) -> None:
        self._table, self._groups, self._runs, self._lora = table, groups, runs, kernels.lora

    def attach(self, model: nn.Module, path: str) -> None:
        """Where the experts stand, rows are sorted before the first of their layers."""
        experts = model.get_submodule(path.rpartition(".")[0])
        assert isinstance(experts, Experts)
        if not experts._forward_pre_hooks:
            experts.register_forward_pre_hook(self._sort)
        model.get_submodule(path).register_forward_hook(self._add)

    def put(self, slot: int, fitted: Fitted, path: str) -> None:
        parts, first = fitted.layers.get(path, NOTHING), slot * self._groups
        if parts or any(self._table[first : first + self._groups]):
            self._table.put(first, *(parts.get(group, ()) for group in range(self._groups)))

    def _sort(self, experts: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        x_TD, _, chosen_TK = inputs
        rows_N3 = self._runs.rows_N3
        self._runs.sorted_R3 = None if rows_N3 is None else by_expert(rows_N3, len(x_TD), chosen_TK, self._groups)

    def _add(self, layer: nn.Module, inputs: tuple[Tensor, Tensor], y_RE: Tensor) -> None:
        if self._runs.sorted_R3 is not None:
            self._lora(y_RE, inputs[0], self._runs.sorted_R3, self._table)


class BehindEmbedding:
    """Behind an embedding: what a token's row of each adapter is, and from there on as behind a linear."""

    def __init__(self, table: LowRanks, rows_SVR: Tensor, runs: Current, kernels: Kernels) -> None:
        self._table, self._rows_SVR, self._runs, self._lora = table, rows_SVR, runs, kernels.lora

    def attach(self, model: nn.Module, path: str) -> None:
        model.get_submodule(path).register_forward_hook(self._add)

    def put(self, slot: int, fitted: Fitted, path: str) -> None:
        rows_VR = fitted.rows.get(path)
        if rows_VR is not None:
            self._rows_SVR[slot, : rows_VR.shape[0], : rows_VR.shape[1]] = rows_VR
        _put(self._table, slot, fitted.layers.get(path, NOTHING).get(0, ()))

    def _add(self, layer: nn.Module, inputs: tuple[Tensor], y_TD: Tensor) -> None:
        runs_N3, tokens_T = self._runs.rows_N3, inputs[0]
        if self._runs.own.of_embedding and self._runs.own.tokens_T is not None:
            tokens_T = self._runs.own.tokens_T
        if runs_N3 is not None:
            slot_T = slots_of(runs_N3, len(tokens_T)).clamp(min=0)
            x_TR = self._rows_SVR.flatten(0, 1).index_select(0, slot_T * self._rows_SVR.shape[1] + tokens_T)
            self._lora(y_TD, x_TR, runs_N3, self._table)


def slots_of(runs_N3: Tensor, tokens: int) -> Tensor:
    """The slot of each of so many rows, -1 for none. Every row is in a run or behind an empty one."""
    starts_N, stops_N, slot_N = runs_N3.unbind(1)
    slot_N = torch.where(stops_N > starts_N, slot_N, -1)
    rows_T = torch.arange(tokens, dtype=torch.int32, device=runs_N3.device)
    row_T = torch.searchsorted(starts_N.contiguous(), rows_T, right=True) - 1
    return slot_N.index_select(0, row_T).long()


def by_expert(runs_N3: Tensor, tokens: int, chosen_TK: Tensor, groups: int) -> Tensor:
    """A run for each row, sorted by expert as `moe.by_expert` sorts them."""
    flat = chosen_TK.flatten()
    order_R = flat.argsort(stable=True)
    slot_R = slots_of(runs_N3, tokens).index_select(0, order_R // chosen_TK.shape[1])
    at_R = torch.arange(len(flat), device=flat.device)
    runs = (at_R, at_R + (slot_R >= 0), slot_R.clamp(min=0) * groups + flat.index_select(0, order_R))
    return torch.stack(runs, dim=1).to(torch.int32)


def _put(table: LowRanks, slot: int, parts: tuple[LowRank, ...]) -> None:
    if parts or table[slot]:
        table.put(slot, parts)


def _places(model: nn.Module, sites: Mapping[str, Site]) -> dict[str, Place]:
    """Sites whose layer is of a kind that hooks can stand behind."""
    found = {}
    for name, site in sites.items():
        layer, group = model.get_submodule(site.layer), expert_of(site.part) if site.kind == "expert" else 0
        if site.kind == "experts":
            begin = 0 if isinstance(layer, GroupedLinear | SeparateLinear) else None
        else:
            begin = None if group is None else BEGINS.get(type(layer), _nowhere)(layer, group, site.part)
        if begin is not None and group is not None:
            order_E = layer.order_of(site.part) if isinstance(layer, Interleaved) else None
            if site.mixed:
                order_E = torch.arange(site.outputs).view(-1, 2).T.flatten()
            found[name] = Place(site.layer, group, begin, site.inputs, site.outputs, site.kind, order_E, site.groups)
    return found


def _layer_of(place: Place) -> int:
    match = LAYER.fullmatch(place.layer)
    return -1 if match is None else int(match[1])


def _of_linear(layer: Any, group: int, part: str) -> int:
    """A part that is not declared is all of the weight."""
    found = layer.parts_of("weight").get(part)
    return 0 if found is None else int(found.first)


def _of_grouped(layer: Any, group: int, part: str) -> int:
    return int(layer.parts_of("weight")[part].first) - group * int(layer.outputs)


def _of_separate(layer: Any, group: int, part: str) -> int:
    return _of_linear(layer.each[group], group, part.partition(".")[2])


def _whole(layer: Any, group: int, part: str) -> int:
    return 0


def _nowhere(layer: Any, group: int, part: str) -> None:
    return None


BEGINS: Mapping[type, Callable[[Any, int, str], int | None]] = {
    Linear: _of_linear,
    Interleaved: _of_linear,
    TiedHead: _whole,
    Embedding: _whole,
    GroupedLinear: _of_grouped,
    SeparateLinear: _of_separate,
}


def fitted_of(parts: Iterable[tuple[Place, LowRank]], rows: Mapping[str, Tensor]) -> Fitted:
    """Low ranks by where they stand, those of a fused layer in the order of their outputs."""
    layers: dict[str, dict[int, tuple[LowRank, ...]]] = {}
    for place, part in sorted(parts, key=lambda each: each[0].begin):
        groups = layers.setdefault(place.layer, {})
        groups[place.group] = (*groups.get(place.group, ()), part)
    return Fitted(layers, rows)
