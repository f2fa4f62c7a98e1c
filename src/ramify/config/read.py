"""Settings from a YAML file, the environment, flags and keyword arguments, all checked alike.

What comes later wins: defaults, `--config FILE`, environment (`RAMIFY_PORT=...`), then flags or keyword arguments.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ramify.config.flags import NEEDLESS, NEEDLESS_WITH_VALUE, SGLANG, instead_of, value_instead_of
from ramify.config.settings import ROOMS, Settings, names, spellings
from ramify.core.errors import StartupError

log = logging.getLogger(__name__)

PREFIX = "RAMIFY_"
CONFIG = f"{PREFIX}CONFIG"  # the one variable that is no setting
MODELS = "models"  # the one key of a file that is none
MAX_FILE = 1 << 20  # bytes
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
NOTHING: tuple[Any, ...] = (None, False, "", "none", "None", (), [], {})  # what asks for nothing, whatever its name

Spell = Callable[[str], str]


# -- values ------------------------------------------------------------------------------------------------------------


def parse_int(text: str) -> int:
    """`4096`, `4k`, `1M`, `2Ki`, `1e6`."""
    lowered = text.strip().lower().replace("_", "")
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if lowered.endswith(s)), "")
    digits, factor = lowered.removesuffix(suffix), SUFFIXES.get(suffix, 1)
    try:
        value = int(digits) * factor if digits.lstrip("+-").isdecimal() else float(digits) * factor
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{shown(text)} is not a whole number")


def parse_bool(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.strip().lower() not in values:
        raise ValueError(f"{shown(text)} is neither true nor false")
    return values[text.strip().lower()]


def parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number") from None


def parse_list(value: Any) -> tuple[str, ...]:
    """Words, from a sequence, from JSON, or with white space between them. A mapping is a list of `NAME=VALUE`, and
    within a list it is JSON.
    """
    if isinstance(value, str):
        if value.lstrip()[:1] not in ("[", "{"):
            return _some(tuple(value.split()))
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"{shown(value)} is not valid JSON") from None
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        entries: list[Any] = [f"{key}={each}" for key, each in value.items()]
        return _some(tuple(entries) if "lora_name" not in value else (json.dumps(value),))
    entries = [value] if isinstance(value, dict) else list(_exactly((list, tuple), value))
    made = [json.dumps(each) if isinstance(each, dict) else _exactly((str, Path), each) for each in entries]
    return _some(tuple(map(str, made)))


def parse_numbers(value: Any) -> tuple[int, ...]:
    """Whole numbers, from a sequence, from JSON, or with white space between them."""
    if isinstance(value, str):
        value = value.translate(str.maketrans('[],"', "    ")).split()
    entries = [value] if isinstance(value, int) else _exactly((list, tuple), value)
    made = tuple(parse_int(each) if isinstance(each, str) else _whole(each) for each in entries)
    if not made:
        raise ValueError("is empty; is it taken from a variable that is not set?")
    return made


def _some(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not all(word.strip() for word in words):
        raise ValueError("is empty; is it taken from a variable that is not set?")
    return words


def convert(name: str, value: Any, where: str) -> Any:
    """`value` as the type of setting `name` and within its range; strings are parsed. `where` begins an error."""
    room, field = names()[name]
    hint = typing.get_type_hints(ROOMS[room])[name]
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in options):
        if type(None) in options:
            return None
        raise StartupError(f"{where} needs a value")
    (kind,) = (option for option in options if option is not type(None))
    try:
        made = as_kind(kind, value)
    except (ValueError, TypeError) as e:
        raise StartupError(f"{where}: {e}", value_instead_of(name, value)) from None
    if refusal := refusal_of(field, made):
        raise StartupError(f"{where} {refusal}")
    return made


def refusal_of(field: dataclasses.Field[Any], value: Any) -> str | None:
    """What is wrong with a value of the right type, to stand after its name; None if nothing is."""
    within = field.metadata["within"]
    if within is not None and value is not None:
        return within.refusal(value)
    if isinstance(value, str) and not value.strip():
        return "is empty; is it taken from a variable that is not set?"
    return None


def as_kind(kind: Any, value: Any) -> Any:
    """`value` as a plain type or one of a Literal's choices; strings are parsed. Raises `ValueError` in words."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{shown(value)} is not one of {', '.join(map(str, choices))}")
        return value
    if kind == tuple[str, ...]:
        return parse_list(value)
    if kind == tuple[int, ...]:
        return parse_numbers(value)
    if kind is bool:
        return parse_bool(value) if isinstance(value, str) else _exactly(bool, value)
    if kind is int:
        return parse_int(value) if isinstance(value, str) else _whole(value)
    if kind is float:
        return parse_float(value) if isinstance(value, str) else float(_number(value))
    return value if isinstance(value, str) else str(_exactly((str, int, float, Path), value))


def _exactly(kinds: Any, value: Any) -> Any:
    if not isinstance(value, kinds):
        raise ValueError(f"{shown(value)} has the wrong type")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return _exactly((int, float), value)


def _whole(value: Any) -> int:
    if isinstance(_number(value), float) and not value.is_integer():
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def shown(value: Any) -> str:
    """A value in an error, cut where it is long or deep."""
    return reprlib.repr(value)


# -- names -------------------------------------------------------------------------------------------------------------


def overlay(settings: Settings, values: Mapping[str, Any], source: str, spell: Spell | None = None) -> Settings:
    """`settings` with `values` by name on top; unknown names are an error.

    `source` is where the values come from, in the words of `ramify explain`; `spell` says how a name is written there.
    """
    known, spell = spellings(), spell or (lambda key: f"{source}: {key}")
    by_room: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for key, value in values.items():
        name = known.get(key.replace("-", "_"))
        if name is None:
            _look_up(key, value, spell(key), known)
            continue
        if name in sources:
            raise StartupError(f"{spell(key)}: {name} is given twice")
        sources[name] = source
        by_room.setdefault(names()[name][0], {})[name] = convert(name, value, spell(key))
    changed = {room: dataclasses.replace(getattr(settings, room), **found) for room, found in by_room.items()}
    return dataclasses.replace(settings, **changed, sources={**settings.sources, **sources})


def _look_up(key: str, value: Any, where: str, known: Iterable[str]) -> None:
    """A name that is no setting: SGLang's are passed over where they change nothing; the others are an error."""
    flag = key.replace("_", "-")
    if needless := {**NEEDLESS, **NEEDLESS_WITH_VALUE}.get(flag):
        log.warning("%s is not needed: %s", where, needless)
    elif flag not in SGLANG:
        raise StartupError(f"{where}: there is no setting {shown(key)}", did_you_mean(key.replace("-", "_"), known))
    elif value not in NOTHING:
        raise StartupError(f"{where} is a setting of SGLang that ramify does not have", instead_of(flag))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A guess at what was meant, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else ""


# -- sources -----------------------------------------------------------------------------------------------------------


def from_environment(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """`RAMIFY_<NAME>` for every setting."""
    found: dict[str, str] = {}
    for spelling, name in spellings().items():
        variable = PREFIX + spelling.upper()
        if variable not in environ:
            continue
        if name in found:
            raise StartupError(f"{found[name]} and {variable} are the same setting: {name}")
        found[name] = variable
        settings = overlay(settings, {name: environ[variable]}, f"environment {variable}", found.__getitem__)
    return settings


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence about every variable that looks like a setting and is none."""
    known = {CONFIG, *(PREFIX + spelling.upper() for spelling in spellings())}
    strange = [variable for variable in sorted(environ) if variable.startswith(PREFIX) and variable not in known]
    return [
        f"{variable} is in the environment and is no setting. {did_you_mean(variable, known)}" for variable in strange
    ]


class _Loader(yaml.SafeLoader):
    """A mapping that has a key twice is an error, where YAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{shown(key)} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def from_yaml(settings: Settings, path: str) -> Settings:
    """A YAML mapping of names to values."""
    found, models = from_file(settings, path)
    if models is not None:
        raise StartupError(f"--config {path} has several models, and here there is one")
    return found


def from_file(settings: Settings, path: str) -> tuple[Settings, Any]:
    """The same, and what stands under `models`, if anything does."""
    loaded = _load(path)
    if loaded is None:
        return settings, None
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise StartupError(f"--config {path} should map names to values, like `port: 30000`")
    models = loaded.pop(MODELS, None)
    return overlay(settings, loaded, f"the file {path}", lambda key: f"--config {path}: {key}"), models


def _load(path: str) -> Any:
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_FILE + 1)
        if len(text) > MAX_FILE:
            raise StartupError(f"--config {path} is larger than {MAX_FILE >> 20} MiB")
        return yaml.load(text, _Loader)
    except OSError as e:
        raise StartupError(f"--config {path}: {e.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise StartupError(f"--config {path} is not valid YAML: {e}") from None
