"""Rows of the embedding and the head that an adapter has for itself: those of a module that was trained as a whole, of
tokens that were trained alone, and of tokens that were added to the vocabulary.

They stand in place of the model's own, and low ranks are added to them as to those. An adapter may have more tokens
than the model, or fewer: a row's logits are as many as its adapter has tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramify.adapters.peft import AdapterFile, Rows
from ramify.ops.kernels import Kernels

Run = tuple[int, int, int]  # start, stop, slot


@dataclass(frozen=True)
class OwnRows:
    """[N, D], of the tokens `ids_N`, which rise."""

    ids_N: Tensor
    rows_ND: Tensor

    def on(self, device: torch.device) -> OwnRows:
        return OwnRows(self.ids_N.to(device), self.rows_ND.to(device))

    def then(self, later: OwnRows) -> OwnRows:
        """Of a token that both have, the later row."""
        ids, rows = torch.cat((self.ids_N, later.ids_N)), torch.cat((self.rows_ND, later.rows_ND))
        order = ids.argsort(stable=True)
        sorted_ids = ids[order]
        is_last = torch.ones_like(sorted_ids, dtype=torch.bool)
        is_last[:-1] = sorted_ids[:-1] != sorted_ids[1:]
        return OwnRows(sorted_ids[is_last], rows[order[is_last]])

    @property
    def size(self) -> int:
        return len(self.ids_N)


@dataclass(frozen=True)
class OwnHead:
    """As the kernels read it. `last` is the greatest of the ids."""

    ids_N: Tensor
    weight: Tensor
    last: int

    def on(self, device: torch.device) -> OwnHead:
        return OwnHead(self.ids_N.to(device), self.weight.to(device), self.last)

    def write(self, y_TE: Tensor, rows_R: Tensor, x_TD: Tensor, kernels: Kernels) -> None:
        """What this head says to some rows, in its tokens' columns."""
        x_RD, packing = x_TD.index_select(0, rows_R), kernels.packing
        if packing is None:
            own_RN = kernels.linear(x_RD, self.weight, None)
        else:
            own_RN = packing.linear(x_RD, self.weight, len(self.ids_N), None)
        y_TE[rows_R[:, None], self.ids_N] = own_RN.to(y_TE.dtype)


class OwnRuns(threading.local):
    """Runs of rows whose adapter has rows of its own here, of what a thread computes next."""

    def __init__(self) -> None:
        self.of_embedding: list[Run] = []
        self.of_head: list[Run] = []
        self.tokens_T: Tensor | None = None  # of the step, some of which the model does not know


class BehindOwnEmbedding:
    """Rows of an embedding. Who they are of is asked of the numbers, so steps with such are not recorded."""

    def __init__(self, runs: OwnRuns, vocab: int) -> None:
        self._runs, self._vocab = runs, vocab
        self._own: dict[int, OwnRows] = {}

    @property
    def slots(self) -> Mapping[int, OwnRows]:
        return self._own

    def attach(self, model: nn.Module, path: str) -> None:
        layer = model.get_submodule(path)
        layer.register_forward_pre_hook(self._known)
        layer.register_forward_hook(self._replace)

    def put(self, slot: int, own: OwnRows | None) -> None:
        self._own.pop(slot, None)
        if own is not None:
            self._own[slot] = own

    def _known(self, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Tokens that the model does not know are replaced afterwards."""
        self._runs.tokens_T = inputs[0] if self._runs.of_embedding else None
        return (inputs[0].clamp(max=self._vocab - 1),) if self._runs.of_embedding else None

    def _replace(self, layer: nn.Module, inputs: tuple[Tensor], y_TD: Tensor) -> None:
        tokens_T = self._runs.tokens_T
        for start, stop, slot in self._runs.of_embedding:
            assert tokens_T is not None
            own, tokens = self._own[slot], tokens_T[start:stop]
            at = torch.searchsorted(own.ids_N, tokens).clamp(max=own.size - 1)
            here = own.ids_N[at] == tokens
            y_TD[start:stop] = torch.where(here[:, None], own.rows_ND[at].to(y_TD.dtype), y_TD[start:stop])


class BehindOwnHead:
    """Rows of a head: columns of the logits, which become as many as the longest of the batch has."""

    def __init__(self, runs: OwnRuns, kernels: Kernels) -> None:
        self._runs, self._kernels = runs, kernels
        self._own: dict[int, OwnHead] = {}

    @property
    def slots(self) -> Mapping[int, OwnHead]:
        return self._own

    def attach(self, model: nn.Module, path: str) -> None:
        model.get_submodule(path).register_forward_hook(self._replace)

    def put(self, slot: int, own: OwnHead | None) -> None:
        self._own.pop(slot, None)
        if own is not None:
            self._own[slot] = own

    def _replace(self, layer: nn.Module, inputs: tuple[Tensor], y_TE: Tensor) -> Tensor | None:
        if not self._runs.of_head:
            return None
        rows: dict[int, list[Tensor]] = {}
        for start, stop, slot in self._runs.of_head:
            rows.setdefault(slot, []).append(torch.arange(start, stop, device=y_TE.device))
        widest = max(self._own[slot].last + 1 for slot in rows)
        y_TE = F.pad(y_TE, (0, max(widest - y_TE.shape[1], 0)))
        for slot, at in rows.items():
            self._own[slot].write(y_TE, torch.cat(at), inputs[0], self._kernels)
        return y_TE


def as_head(own: OwnRows, kernels: Kernels) -> OwnHead:
    weight = own.rows_ND if kernels.packing is None else kernels.packing.pack(own.rows_ND)
    return OwnHead(own.ids_N, weight, int(own.ids_N[-1]))


class Vocabulary:
    """What an adapter's file says of one embedding or head: `count` tokens, some with rows of their own."""

    def __init__(self, file: AdapterFile, module: str, vocab: int) -> None:
        self.module = module
        self.whole = file.whole.get(module)
        self.base = file.bases.get(module)
        self.tokens = file.tokens.get(module)
        self._vocab = vocab

    def tie(self, other: Vocabulary) -> None:
        """The other is the same table. What stood below, and rows of tokens, are then saved of one of them alone."""
        if self.whole is None and self.base is None and self.tokens is None:
            self.base, self.tokens = other.base, other.tokens

    @property
    def count(self) -> int:
        given = self.base if self.whole is None else self.whole
        return self._vocab if given is None else len(given)

    @property
    def added(self) -> int:
        """How many rows stand beside those of the model, or for single ones of them."""
        return max(self.count - self._vocab, 0) + (0 if self.tokens is None else len(self.tokens.ids))

    def own(self, dtype: torch.dtype) -> OwnRows | None:
        """None where all rows are the model's."""
        if self.whole is not None:
            own = OwnRows(torch.arange(self.count), self.whole)
        elif self.base is not None and self.count > self._vocab:
            own = OwnRows(torch.arange(self._vocab, self.count), self.base[self._vocab :])
        elif self.tokens is not None:
            own = _of(self.tokens)
        else:
            return None
        if self.tokens is not None:
            own = own.then(_of(self.tokens))
        return OwnRows(own.ids_N, own.rows_ND.to(dtype).contiguous())


def _of(tokens: Rows) -> OwnRows:
    none = OwnRows(torch.empty(0, dtype=torch.int64), tokens.rows_ND[:0])
    return none.then(OwnRows(torch.tensor(tokens.ids), tokens.rows_ND))
