"""Options of a measurement, read by tyro, and the engine settings that follow them on the same line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tyro

from ramify.cli.command import MORE, quiet
from ramify.cli.settings import parse
from ramify.config.settings import Settings

T = TypeVar("T")

PLAIN = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def split(kind: type[T], arguments: Sequence[str], prog: str) -> tuple[T, list[str]]:
    """A command's own options, and what it leaves over."""
    if any(argument in ("-h", "--help") for argument in arguments):
        tyro.cli(kind, args=["--help"], prog=prog, config=PLAIN, description=f"{kind.__doc__}\n\n{MORE}")
    options, rest = tyro.cli(kind, args=list(arguments), prog=prog, config=PLAIN, return_unknown_args=True)
    return options, rest


def engine_settings(rest: Sequence[str], prog: str) -> Settings:
    """Settings from what a command left over; quieter than a server unless asked otherwise."""
    return parse(rest, prog, quiet())
