"""Several models on one server: the settings of each, from what is common to all and what it has of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ramify.config.read import overlay, shown
from ramify.config.settings import Settings
from ramify.core.errors import StartupError

MOST = 64
OWN = "its entry"  # the source of what a model does not share begins so
SHORT = {"name": "served_model_name", "path": "model_path", "mem_fraction": "mem_fraction_static"}
TASKS = {"embedding": True, "generate": False}  # and whether that is --is-embedding
# Settings of the process that listens, and of all at once.
SERVER_WIDE = frozenset(
    "host port api_key admin_api_key allow_unauthenticated api_workers max_connections drain_timeout max_body_mib "
    "log_level".split()
)


def is_own(settings: Settings, name: str) -> bool:
    """Whether a model's entry says this, and not what is common."""
    return settings.sources.get(name, "").startswith(OWN)


def of_words(common: Settings, words: Sequence[str]) -> tuple[Settings, ...]:
    """Models as the command line has them: `[NAME=]PATH[:embedding]` each."""
    return _each(common, [(from_word(word), f"--model {word}") for word in words])


def of_file(common: Settings, entries: Any, path: str) -> tuple[Settings, ...]:
    """Models as `models:` in a file has them: a list of paths, or of mappings of names to values."""
    if not isinstance(entries, list) or not entries:
        raise StartupError(f"--config {path}: models should be a list of models")
    if common.model.model_path is not None:
        raise StartupError(f"--config {path} has models, and there is a model beside them", "Make it one of them.")
    return _each(common, [(_mapping(entry, path, at), f"models[{at}] of {path}") for at, entry in enumerate(entries)])


def _mapping(entry: Any, path: str, at: int) -> dict[str, Any]:
    if isinstance(entry, str):
        return from_word(entry)
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise StartupError(f"--config {path}: models[{at}] should be a path, or map names to values")
    return {key.replace("-", "_"): value for key, value in entry.items()}


def from_word(word: str) -> dict[str, Any]:
    """`[NAME=]PATH[:embedding]`; a path that exists is a path whatever it looks like."""
    if Path(word).exists():
        return {"path": word}
    path, colon, task = word.rpartition(":")
    if not colon or task not in TASKS:
        path, task = word, ""
    name, equals, rest = path.partition("=")
    named = bool(equals and name and rest and "/" not in name)
    found: dict[str, Any] = {"name": name, "path": rest} if named else {"path": path}
    return found | ({"task": task} if task else {})


def values_of(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An entry in the names of settings."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        name = SHORT.get(key, key)
        if key == "task":
            if value not in TASKS:
                raise StartupError(f"{where}: task {shown(value)} is not one of {', '.join(TASKS)}")
            name, value = "is_embedding", TASKS[value]
        if name in SERVER_WIDE:
            raise StartupError(f"{where}: {name} is the server's and not a model's", "Say it once, beside the models.")
        if name in found:
            raise StartupError(f"{where}: {name} is given twice")
        found[name] = value
    return found


def _each(common: Settings, entries: Sequence[tuple[dict[str, Any], str]]) -> tuple[Settings, ...]:
    if len(entries) > MOST:
        raise StartupError(f"{len(entries)} models on one server are more than {MOST}")
    if len(entries) > 1 and common.model.served_model_name is not None:
        raise StartupError(
            "--served-model-name names one model, and there are several", "Name each: --model NAME=PATH, or its `name`."
        )
    return tuple(
        overlay(common, values_of(entry, where), f"{OWN}, {where}", lambda key, where=where: f"{where}: {key}")  # type: ignore[misc]
        for entry, where in entries
    )
