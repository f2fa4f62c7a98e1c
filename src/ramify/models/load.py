"""From a model's folder to a model that computes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.models.preflight import checked_tensors
from ramify.models.registry import family_of
from ramify.weights.arrange import ARRANGE
from ramify.weights.checkpoint import read_tensors
from ramify.weights.dummy import fill

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
    places = checked_tensors(folder, config)
    infos = {name: info for name, (info, _) in places.items()}
    for number, (name, tensor) in enumerate(read_tensors(infos), 1):
        destination = places[name][1]
        layer = model.get_submodule(destination.layer)
        assert isinstance(layer, Loadable)
        arranged = ARRANGE[destination.arranged](tensor)
        layer.accept(destination.weight, destination.part, arranged, name)
        if not layer.missing():
            layer.loaded()
        if progress is not None:
            progress(number, len(infos))
    _check_complete(model)


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
    for path, layer in model.named_modules():
        if not isinstance(layer, Loadable):
            continue
        for name in layer.declared():
            weight = layer.memory(name)
            generator = torch.Generator(weight.device).manual_seed(seed + _stable(f"{path}.{name}"))
            fill(name, weight, generator)
        layer.loaded()


def _stable(text: str) -> int:
    """A hash that is the same in every process."""
    value = 0
    for character in text:
        value = (value * 131 + ord(character)) % (1 << 31)
    return value
