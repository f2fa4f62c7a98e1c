"""Whose code computes a model: a family's, or that of transformers over our pages."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import msgspec

from ramify.config.model import ModelConfig, architecture_of, read_raw
from ramify.config.settings import ModelSettings
from ramify.config.task import attends_both_ways, read_model, with_head
from ramify.core.errors import StartupError
from ramify.models.generic_catalogue import knows
from ramify.models.preflight import checked_tensors
from ramify.models.registry import FAMILIES, family_of, is_native
from ramify.weights.checkpoint import list_tensors

log = logging.getLogger(__name__)

LOOKING = 300  # seconds that looking at a model may take


def choose_model(folder: Path, asked: ModelSettings) -> ModelConfig:
    """The model in a folder, with its checkpoint checked as far as that goes without torch."""
    raw = read_raw(folder)
    architecture = architecture_of(raw)
    native = is_native(architecture)
    ours = native and not attends_both_ways(architecture, raw)
    if native and (asked.model_impl == "native" or (ours and asked.model_impl == "auto")):
        return _native(folder, asked)
    if asked.model_impl == "native":
        raise StartupError(
            f"--model-impl native: ramify has no code of its own for {architecture}",
            "`ramify models` lists what it has.",
        )
    if not native and not knows(architecture):
        raise StartupError(
            f"the architecture {architecture} is not supported, neither here nor by the installed transformers, and "
            "code that comes with a model is never run",
            f"Supported: {', '.join(FAMILIES)}, and others that `ramify models` lists.",
        )
    if not ours:
        log.info("no native code computes this %s: that of transformers does, over our cache", architecture)
    return _generic(folder, asked)


def _native(folder: Path, asked: ModelSettings) -> ModelConfig:
    model = read_model(folder, asked.is_embedding)
    family_of(model)
    if _has_weights(asked):
        checked_tensors(folder, model)
    return model


def _generic(folder: Path, asked: ModelSettings) -> ModelConfig:
    """Which tensors are missing is known when they are loaded: transformers has the names."""
    if _has_weights(asked):
        list_tensors(folder)
    return with_head(folder, look(folder), asked.is_embedding)


def _has_weights(asked: ModelSettings) -> bool:
    return asked.load_format not in ("dummy", "none")


def look(folder: Path) -> ModelConfig:
    """What `generic_look` sees. In another process, where torch is not in this one: a server's parent stays small."""
    if "torch" in sys.modules:
        from ramify.models import generic_look

        return generic_look.look(folder)
    command = [sys.executable, "-m", "ramify.models.generic_look", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LOOKING, check=True)
        found = msgspec.json.decode(done.stdout, type=ModelConfig | list[str])
    except subprocess.TimeoutExpired:
        raise StartupError(f"transformers did not come to an end with config.json in {LOOKING} seconds") from None
    except (subprocess.CalledProcessError, msgspec.MsgspecError) as e:
        said = e.stderr.decode(errors="replace") if isinstance(e, subprocess.CalledProcessError) else str(e)
        raise StartupError(f"transformers failed over config.json: {(said.strip() or '?').splitlines()[-1]}") from None
    if isinstance(found, list):
        raise StartupError(*found)
    return found
