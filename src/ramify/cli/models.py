"""`ramify models`: which architectures there are, and which of them are compared with transformers in the tests."""

from __future__ import annotations

from ramify.cli.line import describe, take
from ramify.core.errors import UsageError
from ramify.core.registry import Registry
from ramify.models.layout import Family
from ramify.models.registry import ENCODERS, FAMILIES

USAGE = "ramify models"
ABOUT = """List the architectures that can be served. The one of a model stands in its config.json, as architectures.
Heads for vectors, classes and rewards stand on all of them."""


def models(arguments: list[str]) -> int:
    line = take(arguments, ())
    if line.help:
        print(describe(USAGE, ABOUT, ()))
        return 0
    if line.words:
        raise UsageError(f"models takes no {line.words[0]!r}")
    print(table())
    return 0


def table() -> str:
    """One line for each architecture. What a plug-in brings is tested by nobody here."""
    rows = [("architecture", "code", "tested", "models")]
    rows += [(name, *_origin(FAMILIES, name), FAMILIES[name].models) for name in FAMILIES]
    rows += [(f"{name}Model", *_origin(ENCODERS, name), "encoder, for vectors and scores") for name in ENCODERS]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _origin(registry: Registry[Family], name: str) -> tuple[str, str]:
    return ("native", "yes") if registry.is_own(name) else ("plug-in", "no")
