"""Options of a command, and the engine settings that stand on the same line."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from ramify.cli.line import Flag, Line, describe, flag_of
from ramify.cli.settings import settings_of, take_settings
from ramify.config.read import as_kind, overlay
from ramify.config.settings import Range, Settings
from ramify.core.errors import StartupError

T = TypeVar("T")

MORE = "All settings of `ramify serve` are taken as well: see `ramify serve --help`."


def option(default: Any, help: str, within: Range | None = None) -> Any:
    """A field of a command's options. A tuple collects what a flag is given, each time it is."""
    return dataclasses.field(default=default, metadata={"help": help, "within": within})


def flags_of(kind: type, group: str = "Options") -> list[Flag]:
    return [flag_of(kind, each, group) for each in dataclasses.fields(kind)]


def read(kind: type[T], arguments: Sequence[str], usage: str, words: Sequence[tuple[str, str]]) -> tuple[T, Line]:
    """A command's own options, and the whole line; exits with help."""
    flags = flags_of(kind)
    line = take_settings(arguments, flags)
    if line.help:
        print(describe(usage, f"{kind.__doc__}\n\n{MORE}", flags, words))
        sys.exit(0)
    return options_of(kind, line), line


def options_of(kind: type[T], line: Line) -> T:
    """The options that a line has, in their types and ranges; the others keep their defaults."""
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{f.name: _value(f, fields[f.name], line) for f in flags_of(kind) if f.name in line.flags})


def _value(flag: Flag, field: dataclasses.Field[Any], line: Line) -> Any:
    if typing.get_origin(flag.kind) is tuple:
        return tuple(line.lists[flag.name])
    try:
        value = as_kind(flag.kind, line.flags[flag.name])
    except ValueError as e:
        raise StartupError(f"{line.spelled[flag.name]}: {e}") from None
    within = field.metadata["within"]
    if within is not None and (refusal := within.refusal(value)):
        raise StartupError(f"{line.spelled[flag.name]} {refusal}")
    return value


def quiet() -> Settings:
    """What a command on a terminal begins with: an engine that says less than a server."""
    return overlay(Settings(), {"log_level": "error", "log_interval": 0.0}, "default of this command")


def settings_beside(line: Line) -> Settings:
    """The settings on a command's line."""
    return settings_of(line, quiet())
