"""Settings from a YAML file, the environment and keyword arguments, all checked alike.

What comes later wins: defaults, `--config FILE`, environment (`RAMIFY_PORT=...`), then flags or keyword arguments.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ramify.config.settings import ROOMS, Settings, names
from ramify.core.errors import StartupError

PREFIX = "RAMIFY_"
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_int(text: str) -> int:
    """`4096`, `4k`, `1M`, `2Ki`, `1e6`."""
    lowered = text.strip().lower().replace("_", "")
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if lowered.endswith(suffix):
            return int(float(lowered.removesuffix(suffix)) * SUFFIXES[suffix])
    value = float(lowered) if "e" in lowered or "." in lowered else int(lowered)
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def parse_bool(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.strip().lower() not in values:
        raise ValueError(f"{text!r} is neither true nor false")
    return values[text.strip().lower()]


def convert(name: str, value: Any, source: str) -> Any:
    """`value` as the type of setting `name`; strings are parsed. `source` is for the error."""
    room = names()[name][0]
    hint = typing.get_type_hints(ROOMS[room])[name]
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in options):
        if type(None) in options:
            return None
        raise StartupError(f"{source}: {name} needs a value")
    (kind,) = (option for option in options if option is not type(None))
    try:
        return _as(kind, value)
    except (ValueError, TypeError) as e:
        raise StartupError(f"{source}: {name}: {e}") from None


def _as(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(map(str, choices))}")
        return value
    if kind is bool:
        return parse_bool(value) if isinstance(value, str) else _exactly(bool, value)
    if kind is int:
        return parse_int(value) if isinstance(value, str) else _whole(value)
    if kind is float:
        return float(value) if isinstance(value, str) else float(_number(value))
    return value if isinstance(value, str) else str(_exactly((str, int, float, Path), value))


def _exactly(kinds: Any, value: Any) -> Any:
    if not isinstance(value, kinds):
        raise ValueError(f"{value!r} has the wrong type")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return _exactly((int, float), value)


def _whole(value: Any) -> int:
    if _number(value) != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def overlay(settings: Settings, values: Mapping[str, Any], source: str) -> Settings:
    """`settings` with `values` by name on top; unknown names are an error."""
    known = names()
    by_room: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise StartupError(f"{source}: there is no setting {key!r}", f"Known: {', '.join(sorted(known))}.")
        by_room.setdefault(known[name][0], {})[name] = convert(name, value, source)
    changed = {room: dataclasses.replace(getattr(settings, room), **found) for room, found in by_room.items()}
    return dataclasses.replace(settings, **changed)


def from_environment(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """`RAMIFY_<NAME>` for every setting."""
    found = {name: environ[PREFIX + name.upper()] for name in names() if PREFIX + name.upper() in environ}
    return overlay(settings, found, "environment")


def from_yaml(settings: Settings, path: str) -> Settings:
    """A YAML mapping of names to values."""
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise StartupError(f"--config {path}: {e.strerror}") from None
    except yaml.YAMLError as e:
        raise StartupError(f"--config {path} is not valid YAML: {e}") from None
    if loaded is None:
        return settings
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise StartupError(f"--config {path} should map names to values, like `port: 30000`")
    return overlay(settings, loaded, f"--config {path}")
