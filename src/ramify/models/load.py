"""From a model's folder to a model that computes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.models.preflight import Placed, checked_tensors
from ramify.models.registry import family_of
from ramify.quant.stored import Stored
from ramify.weights.arrange import ARRANGE
from ramify.weights.checkpoint import Reader, TensorInfo
from ramify.weights.dummy import fill
from ramify.weights.gguf import Mapped, read_mapped

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # tensors done, tensors in all


def _generic() -> Any:
    """Models of transformers load themselves. Importing it takes seconds."""
    return import_module("ramify.models.generic_load")


def build_model(build: Build, config: ModelConfig) -> Any:
    """The family's model with uninitialised weights."""
    module, _, name = family_of(config).code.partition(":")
    return getattr(import_module(module), name)(build, config)


def load_weights(model: nn.Module, folder: Path, config: ModelConfig, progress: Progress | None = None) -> None:
    """Copy a checkpoint in, tensor by tensor, and make sure that nothing is left over or missing.

    A layer is packed when its last tensor has come, so that the model never stands in memory twice.
    """
    if config.generic is not None:
        _generic().load_generic(model, folder, progress)
        return
    places, reader = checked_tensors(folder, config), Reader()
    by_file = sorted(places.items(), key=lambda place: place[1].first.file)
    for number, (name, place) in enumerate(by_file, 1):
        destination = place.destination
        layer = model.get_submodule(destination.layer)
        assert isinstance(layer, Loadable)
        layer.accept(destination.weight, destination.part, _read(place, reader), name)
        if not layer.missing():
            layer.loaded()
        if progress is not None:
            progress(number, len(places))
    _check_complete(model)
    if any(place.format is not None for place in places.values()):
        log.info("quantized weights: %s", forms_of(model))


def forms_of(model: nn.Module) -> str:
    """What linears of a quantized checkpoint are computed in, for people."""
    runs = Counter(run.form for layer in model.modules() for run in getattr(layer, "runs", ()))
    counted = ", ".join(f"{count} linears {form}" for form, count in runs.most_common())
    return f"{counted}; embeddings and head in the model's type"


def _read(place: Placed, reader: Reader) -> Tensor | Stored:
    """A tensor of the model, quantized as the checkpoint has it."""
    tensors = {role: _tensor(info, reader) for role, info in place.pieces.items()}
    if place.format is None:
        return ARRANGE[place.destination.arranged](tensors[""])
    assert place.quantized is not None
    outputs, inputs = place.destination.shape
    return place.format.stored(tensors, (outputs, inputs), place.quantized)


def _tensor(info: TensorInfo, reader: Reader) -> Tensor:
    return read_mapped(info) if isinstance(info, Mapped) else reader.read(info)


def _check_complete(model: nn.Module) -> None:
    missing = [
        f"{path}.{part}"
        for path, layer in model.named_modules()
        if isinstance(layer, Loadable)
        for part in layer.missing()
    ]
    if missing:
        raise StartupError(f"nothing was loaded into {', '.join(missing[:5])} ({len(missing)} weights)")


def dummy_weights(model: nn.Module, config: ModelConfig, seed: int = 0) -> None:
    """Random weights, the same for the same seed and shapes."""
    if config.generic is not None:
        _generic().make_generic(model, seed)
        return
    for path, layer in reversed(list(model.named_modules())):  # what stands in a layer before the layer
        if not isinstance(layer, Loadable):
            continue
        for name in layer.declared():
            weight = layer.memory(name)
            generator = torch.Generator(weight.device).manual_seed(seed + _stable(f"{path}.{name}"))
            fill(name, weight, generator)
            for part in layer.parts_of(name):
                layer.came(name, part)
        layer.loaded()


def _stable(text: str) -> int:
    """A hash that is the same in every process."""
    value = 0
    for character in text:
        value = (value * 131 + ord(character)) % (1 << 31)
    return value
