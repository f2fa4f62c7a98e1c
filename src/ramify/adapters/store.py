"""From the folder of an adapter to what stands behind the layers of the model that is served."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ramify.adapters.own import OwnRows, Vocabulary, as_head
from ramify.adapters.peft import WEIGHTS, AdapterFile, Limits, Pair, Stack, read
from ramify.adapters.registry import Read
from ramify.adapters.table import AdapterTable, Fitted, Place, fitted_of
from ramify.config.adapters import AdapterPlan
from ramify.core.errors import BadRequest
from ramify.models.adapted import Kind, target_of
from ramify.ops.lora import LowRank

T = TypeVar("T")

EXPERTS = re.compile(r"(?:model\.)?layers\.(\d{1,6})\.\w+\.experts")
ROOT = "model."  # missing where a backbone was adapted alone


class AdapterStore:
    """A `registry.Store`. `in_turn` has something done by the thread that runs the steps, after what was launched."""

    def __init__(self, table: AdapterTable, plan: AdapterPlan, in_turn: Callable[[Callable[[], None]], Any]) -> None:
        self._table, self._in_turn, self._plan = table, in_turn, plan

    def read(self, id: int, name: str, path: str) -> Read:
        file = read(name, Path(path), Limits(self._plan.rank))
        fitted = Fitting(file, self._table, self._plan).fitted()
        self._table.hold(id, fitted)
        return Read(file.rank, fitted.vocab)

    def forget(self, id: int) -> None:
        self._in_turn(lambda: self._table.forget(id))


class Fitting:
    """What an adapter does to each layer; raises `BadRequest` that names what has no place here."""

    def __init__(self, file: AdapterFile, table: AdapterTable, plan: AdapterPlan) -> None:
        self._table, self._places, self._dtype, self._plan = table, table.places, table.dtype, plan
        self._file = _fully_named(file, {**table.places, **table.vocabulary})
        self._words = self._vocabularies()

    def fitted(self) -> Fitted:
        own = {words.module: words.own(self._dtype) for words in self._words.values()}
        head = own.get(self._named("head")) or self._score()
        parts = [self._part(module, pair) for module, pair in self._file.tensors.items()]
        looked_up = [(self._place(module, pair), pair) for module, pair in self._file.embeddings.items()]
        rows = {place.layer: pair.down_RD.to(self._dtype).T.contiguous() for place, pair in looked_up}
        parts += [(place, self._expanding(pair)) for place, pair in looked_up]
        parts += [
            part for module, some in self._file.stacks.items() for stack in some for part in self._of(module, stack)
        ]
        return replace(
            fitted_of(parts, rows),
            vocab=self._table.vocab if not self._words else next(iter(self._words.values())).count,
            own_embedding=own.get(self._named("embedding")),
            own_head=None if head is None else as_head(head, self._table.kernels),
        )

    # -- embedding and head ---------------------------------------------------------------------------------------

    def _named(self, kind: Kind) -> str:
        return next((name for name, place in self._table.vocabulary.items() if place.kind == kind), "")

    def _vocabularies(self) -> dict[str, Vocabulary]:
        """By name, checked; none where the adapter has no rows of its own, and the model none to be replaced."""
        file, places = self._file, self._table.vocabulary
        for module in (*file.whole, *file.bases, *file.tokens):
            if module not in places and (module in file.whole or module in file.tokens):
                raise self._refusal(module, "of which this model has none that adapters can replace")
        found = {
            name: Vocabulary(file, name, self._table.vocab) for name, place in places.items() if place.kind != "score"
        }
        if self._table.is_tied:
            one, other = found.values()
            one.tie(other)
            other.tie(one)
        for words in found.values():
            self._check_words(words)
        counts = {name: words.count for name, words in found.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} in {name}" for name, count in counts.items())
            raise BadRequest(
                f"the adapter {file.name!r} has a different number of tokens in embedding and head ({said}): save it "
                "again with save_embedding_layers=True",
                param="lora_path",
                code="adapter_shape",
            )
        return found

    def _score(self) -> OwnRows | None:
        """A classifier's last linear, trained as a whole."""
        name = self._named("score")
        weight_ED = self._file.whole.get(name)
        if weight_ED is None:
            return None
        place = self._table.vocabulary[name]
        if tuple(weight_ED.shape) != (place.outputs, place.inputs):
            raise BadRequest(
                f"{WEIGHTS}: {name} has the shape {list(weight_ED.shape)}, and in this model "
                f"{[place.outputs, place.inputs]}: the adapter is of another model",
                param="lora_path",
                code="adapter_shape",
            )
        self._check_room(name)
        return OwnRows(torch.arange(place.outputs), weight_ED.to(self._dtype).contiguous())

    def _check_room(self, module: str) -> None:
        word = target_of(module)
        if word not in self._plan.whole:
            raise self._refusal(module, f"as a whole, for which there is no room (--lora-whole-modules {word})")

    def _check_words(self, words: Vocabulary) -> None:
        for rows in (words.whole, words.base, None if words.tokens is None else words.tokens.rows_ND):
            if rows is not None and rows.shape[1] != self._table.hidden:
                raise BadRequest(
                    f"{WEIGHTS}: {words.module} has rows of {rows.shape[1]} numbers, and in this model of "
                    f"{self._table.hidden}: the adapter is of another model",
                    param="lora_path",
                    code="adapter_shape",
                )
        if words.whole is not None:
            self._check_room(words.module)
        if words.added > self._plan.added:
            raise self._refusal(
                words.module,
                f"which has {words.added} tokens with rows of their own there, and there is room for "
                f"{self._plan.added} (--lora-extra-vocab-size)",
            )
        if words.tokens is not None and max(words.tokens.ids) >= words.count:
            raise self._refusal(words.module, f"token {max(words.tokens.ids)} of {words.count}")

    # -- low ranks ------------------------------------------------------------------------------------------------

    def _part(self, module: str, pair: Pair) -> tuple[Place, LowRank]:
        return self._placed(self._place(module, pair), pair)

    def _placed(self, place: Place, pair: Pair) -> tuple[Place, LowRank]:
        up_ER = pair.up_ER if place.order_E is None else pair.up_ER[place.order_E]
        return place, LowRank(pair.down_RD, up_ER, pair.scale, place.begin).arranged(self._dtype)

    def _of(self, module: str, stack: Stack) -> list[tuple[Place, LowRank]]:
        """One part for each expert."""
        match = EXPERTS.fullmatch(module)
        place = match and self._table.stack(int(match[1]), stack.down_SD.shape[1], stack.up_ES.shape[0])
        if place is None:
            raise self._refusal(module, f"of sizes that this server does not adapt; it adapts {self._known}")
        if len(stack.down_SD) != place.groups * stack.rank:
            text = f"{WEIGHTS}: {module} has {len(stack.down_SD)} rows, not {stack.rank} for each of {place.groups}"
            raise BadRequest(text, param="lora_path", code="adapter_shape")
        pairs = [stack.pair(group, place.groups) for group in range(place.groups)]
        return [self._placed(replace(place, group=group), pair) for group, pair in enumerate(pairs)]

    def _expanding(self, pair: Pair) -> LowRank:
        """What was looked up stays as it is before it is expanded."""
        eye_RD = torch.eye(self._plan.rank)[: pair.down_RD.shape[0]]
        return LowRank(eye_RD, pair.up_ER, pair.scale).arranged(self._dtype)

    def _place(self, module: str, pair: Pair) -> Place:
        place = self._places.get(module)
        is_embedding = module in self._file.embeddings
        if place is None or (place.kind == "embedding") != is_embedding:
            raise self._refusal(module, f"which this server does not adapt; it adapts {self._known}")
        sizes = pair.down_RD.shape[1], pair.up_ER.shape[0]
        expected = self._sizes(module, place)
        if sizes != expected:
            raise BadRequest(
                f"{WEIGHTS}: {module} goes from {sizes[0]} numbers to {sizes[1]}, and in this model from "
                f"{expected[0]} to {expected[1]}: the adapter is of another model",
                param="lora_path",
                code="adapter_shape",
            )
        return place

    @property
    def _known(self) -> str:
        return f"{', '.join(self._plan.targets)} (--lora-target-modules)"

    def _sizes(self, module: str, place: Place) -> tuple[int, int]:
        """Inputs and outputs; an adapter's own tokens are among them."""
        count = self._words[module].count if module in self._words else self._table.vocab
        if place.kind == "embedding":
            return count or place.inputs, place.outputs
        return place.inputs, count or place.outputs if place.kind == "head" else place.outputs

    def _refusal(self, module: str, why: str) -> BadRequest:
        text = f"the adapter {self._file.name!r} changes {module}, {why}"
        return BadRequest(text, param="lora_path", code="adapter_target")


def _fully_named(file: AdapterFile, places: Mapping[str, Place]) -> AdapterFile:
    """With the names that modules have below a head."""

    def named(given: Mapping[str, T]) -> dict[str, T]:
        return {
            name if name in places or f"{ROOT}{name}" not in places else ROOT + name: x for name, x in given.items()
        }

    return replace(
        file,
        tensors=named(file.tensors),
        embeddings=named(file.embeddings),
        whole=named(file.whole),
        bases=named(file.bases),
        tokens=named(file.tokens),
    )
