"""From a constraint to a grammar in Lark, and what is wrong with it if it cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ramify.grammar import ebnf, regex, schema, structural
from ramify.grammar.constraint import MAX_MARKER, MAX_VALUES, Constraint, GrammarError
from ramify.grammar.lark import Lark, Piece
from ramify.grammar.prepare import prepare
from ramify.grammar.style import FLEXIBLE, Style

GAP = r"\n{0,2}"  # what models write between the end of thinking and the answer


@dataclass(frozen=True, slots=True)
class Source:
    """A grammar for the library, and what is known of it for its errors."""

    lark: str
    schema: Any = None
    heaviest: str = ""


def check(constraint: Constraint, specials: Mapping[str, int] | None = None) -> None:
    """Raise `GrammarError` for what can be seen without compiling. Fit for the process that took the request."""
    translate(constraint, specials or {}, FLEXIBLE)


def translate(constraint: Constraint, specials: Mapping[str, int], style: Style) -> Source:
    """`specials` are the ids of the model's special tokens by their text."""
    if len(constraint.after.encode()) > MAX_MARKER:
        raise GrammarError(f"the end of thinking is longer than {MAX_MARKER} bytes")
    lark = Lark(specials)
    found: Any = None
    if constraint.kind in ("json_object", "json_schema"):
        found = {"type": "object"} if constraint.kind == "json_object" else schema.read(constraint.text, "json_schema")
        root = lark.json(prepare(found, constraint.kind, constraint.strict, style))
    elif constraint.kind == "structural_tag":
        found = schema.read(constraint.text, "structural_tag")
        root = structural.translate(found, lark, specials, constraint.strict, style)
    elif constraint.kind == "choice":
        root = _choice(constraint.text, lark)
    elif constraint.kind == "regex":
        root = lark.regex(*regex.translate(constraint.text))
    else:
        root = ebnf.translate(constraint.text, lark)
    if constraint.after:
        root = lark.sequence([lark.regex(GAP), root])
    return Source(lark.source(root), found, schema.heaviest(found))


def _choice(text: str, lark: Lark) -> Piece:
    options = schema.read(text, "choice")
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise GrammarError("choice must be a list of strings that are not empty", param="choice")
    if not 0 < len(options) <= MAX_VALUES:
        raise GrammarError(f"choice must have 1 to {MAX_VALUES} options, got {len(options)}", param="choice")
    return lark.either([lark.literal(option) for option in options])
