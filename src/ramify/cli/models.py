"""`ramify models`: which architectures there are, whose code computes them, and which of them are compared with
transformers in the tests.
"""

from __future__ import annotations

from ramify.cli.line import describe, take
from ramify.config.parts import LANGUAGE
from ramify.core.errors import UsageError
from ramify.core.registry import Registry
from ramify.models.generic_catalogue import TESTED, TESTED_ENCODERS, catalogue
from ramify.models.layout import Family
from ramify.models.registry import ENCODERS, FAMILIES, is_native

USAGE = "ramify models"
ABOUT = """List the architectures that can be served. The one of a model stands in its config.json, as architectures.
Heads for vectors, classes and rewards stand on all of them. What has no native code here is computed by that of the
installed transformers, over our cache (--model-impl); a model that this cannot do is refused at its start, by name."""


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
    rows += [
        (name, "native", "yes", f"its language: {part or 'as its text_config says'}") for name, part in LANGUAGE.items()
    ]
    rows += [(name, "transformers", "yes" if name in TESTED else "no", "") for name in _theirs()]
    rows += [(name, "transformers", "yes", "encoder, for vectors and scores") for name in sorted(TESTED_ENCODERS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _theirs() -> list[str]:
    """What transformers can compute over our cache, as far as its source says, and no family does."""
    known = (name for name, ours in catalogue().items() if ours and not name.endswith("ForConditionalGeneration"))
    return sorted(name for name in known if not is_native(name))


def _origin(registry: Registry[Family], name: str) -> tuple[str, str]:
    return ("native", "yes") if registry.is_own(name) else ("plug-in", "no")
