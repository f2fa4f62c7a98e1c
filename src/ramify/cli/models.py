"""`ramify models`: which architectures there are, and which of them are compared with transformers in the tests."""

from __future__ import annotations

from ramify.cli.line import describe, take
from ramify.core.errors import UsageError
from ramify.models.registry import FAMILIES

USAGE = "ramify models"
ABOUT = "List the architectures that can be served. The one of a model stands in its config.json, as architectures."


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
    for name in FAMILIES:
        native = FAMILIES.is_own(name)
        rows.append((name, "native" if native else "plug-in", "yes" if native else "no", FAMILIES[name].models))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
