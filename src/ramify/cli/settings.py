"""Command line flags, generated from the settings by tyro. YAML, environment and flags come together here."""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from ramify.config.flags import NEEDLESS, NEEDLESS_WITH_VALUE, SGLANG, instead_of
from ramify.config.read import from_environment, from_yaml, parse_int
from ramify.config.settings import ROOMS, Settings, names
from ramify.core.errors import StartupError

PLAIN = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)


def _flag_names(field: dataclasses.Field[Any]) -> list[str]:
    return [field.name.replace("_", "-"), *field.metadata["also"]]


def _human_int(optional: bool) -> PrimitiveConstructorSpec[Any]:
    """`4096`, `4k`, `1M`."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda args: parse_int(args[0]),
        is_instance=lambda value: isinstance(value, int) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def _room(name: str) -> type:
    """A room's dataclass with what tyro needs to know of each field."""
    room = ROOMS[name]
    hints = typing.get_type_hints(room)
    fields = []
    for field in dataclasses.fields(room):
        kind: Any = hints[field.name]
        if kind in (int, int | None):
            kind = Annotated[int | None, _human_int(optional=kind != int)]  # noqa: E721
        also = [f"--{other}" for other in field.metadata["also"]]
        argument = tyro.conf.arg(help=field.metadata["help"], aliases=also or None)
        fields.append((field.name, Annotated[kind, argument], dataclasses.field(default=field.default)))
    made = dataclasses.make_dataclass(room.__name__, fields, frozen=True)
    made.__doc__ = room.__doc__
    return made


def _all_rooms() -> type:
    """The settings, a positional model first and `--config` last."""
    positional = Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(name="MODEL", help="Folder or hub id; the same as --model-path."),
    ]
    fields: list[Any] = [("positional", positional, dataclasses.field(default=None))]
    for name in ROOMS:
        made = _room(name)
        fields.append((name, made, dataclasses.field(default_factory=made)))
    config = Annotated[str | None, tyro.conf.arg(help="YAML file of settings; flags and environment win over it.")]
    fields.append(("config", config, dataclasses.field(default=None)))
    return dataclasses.make_dataclass("Flags", fields, frozen=True)


def parse(arguments: Sequence[str], prog: str) -> Settings:
    """Settings from flags over environment over `--config` over defaults; exits with help or an error text."""
    kept = _without_needless(list(arguments))
    _refuse_missing(kept)
    base = from_environment(_from_config(kept), os.environ)
    kind = _all_rooms()
    rooms = {name: _as_flags(kind, name, getattr(base, name)) for name in ROOMS}
    flags: Any = tyro.cli(kind, args=kept, default=kind(**rooms), prog=prog, config=PLAIN)
    found = {name: ROOMS[name](**dataclasses.asdict(getattr(flags, name))) for name in ROOMS}
    if flags.positional is not None:
        if any(a.split("=")[0] in ("--model-path", "--model") for a in kept):
            raise StartupError("the model is given twice: as an argument and as --model-path")
        found["model"] = dataclasses.replace(found["model"], model_path=flags.positional)
    return Settings(**found)


def _as_flags(kind: type, name: str, room: Any) -> Any:
    """A settings room as its generated twin."""
    twin = typing.get_type_hints(kind)[name]
    return twin(**{field.name: getattr(room, field.name) for field in dataclasses.fields(room)})


def _from_config(arguments: list[str]) -> Settings:
    path = None
    for at, argument in enumerate(arguments):
        if argument.startswith("--config="):
            path = argument.partition("=")[2]
        elif argument == "--config" and at + 1 < len(arguments):
            path = arguments[at + 1]
    path = path or os.environ.get("RAMIFY_CONFIG")
    return from_yaml(Settings(), path) if path else Settings()


def _without_needless(arguments: list[str]) -> list[str]:
    """Flags of SGLang that change nothing here are dropped, and said to be."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
            continue
        name, equals, _ = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in NEEDLESS:
            print(f"--{name} is not needed: {NEEDLESS[name]}", file=sys.stderr)
        elif argument.startswith("--") and name in NEEDLESS_WITH_VALUE:
            print(f"--{name} is not needed: {NEEDLESS_WITH_VALUE[name]}", file=sys.stderr)
            skip = not equals
        else:
            kept.append(argument)
    return kept


def _refuse_missing(arguments: list[str]) -> None:
    """Flags of SGLang that ask for something ramify does not have."""
    known = {flag for _, field in names().values() for flag in _flag_names(field)} | {"config", "help"}
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if argument.startswith("--") and name in SGLANG and name not in known:
            raise StartupError(f"--{name} is a flag of SGLang that ramify does not have", instead_of(name))


def all_flags() -> list[str]:
    """Every flag, for the test that freezes them."""
    return sorted(f"--{flag}" for _, field in names().values() for flag in _flag_names(field))
