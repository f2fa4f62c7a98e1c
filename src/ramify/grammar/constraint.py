"""What an output must look like, as it crosses the wire: one flat struct, whatever the kind.

A face of ramify builds a `Constraint` with one of the functions below, calls `translate.check` on it, and sends
`encode(constraint)` with the request. The engine decodes and compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from ramify.core.errors import BadRequest

NOTE = "grammar"  # the name of a constraint among the notes of a request
MAX_SOURCE = 1 << 20  # bytes of a schema, a grammar or a structural tag; the largest schemas in use have 170 kB
MAX_REGEX = 8192  # characters
MAX_CONSTANT = 1024  # characters of one value in a schema that has to be said as it is, or of a name
MAX_VALUES = 10_000  # members of one enum, properties of one object, options of one choice
MAX_DEPTH = 64  # of nesting: of JSON, and of groups in a regex or a grammar
MAX_REPEATS = 50_000  # symbols that counted repetitions may stand for, nested ones multiplied
MAX_RULES = 2000
MAX_TAGS = 256
MAX_MARKER = 256  # bytes of a marker between free text and grammar

Kind = Literal["json_object", "json_schema", "regex", "ebnf", "choice", "structural_tag"]
ANY_JSON = "$$ANY$$"  # SGLang's `json_schema` for "any JSON"


class Constraint(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """`text` is the schema, the pattern, the grammar, the list of options (JSON) or the structural tag (JSON).

    With `strict`, what cannot be enforced is refused; without, schema keywords the grammar has no means for are left
    to the model. Where `after` is set the output is free until this text (the end of thinking) has been said, and
    the grammar holds from there on.
    """

    kind: Kind
    text: str = ""
    strict: bool = True
    after: str = ""


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Constraint).decode


class GrammarError(BadRequest):
    """400: a constraint that is malformed, too large, or that no grammar can express. `construct` is what offends."""

    def __init__(self, message: str, *, param: str | None = None, construct: str | None = None) -> None:
        super().__init__(message, param=param, code="invalid_grammar")
        self.construct = construct


class GrammarFault(BadRequest):
    """The grammar of a row cannot go on while generating: it exceeded a limit. Ends that row alone.

    `is_shared` where another row of the same compiled grammar may be to blame, and a new copy may help.
    """

    def __init__(self, message: str, is_shared: bool = False) -> None:
        super().__init__(message, code="grammar_limit")
        self.is_shared = is_shared


# -- from requests ---------------------------------------------------------------------------------------------------

NATIVE: tuple[Kind, ...] = ("json_schema", "regex", "ebnf", "structural_tag", "choice")


def from_sampling(raw: Mapping[str, Any]) -> Constraint | None:
    """The constraint among SGLang's sampling parameters, which may hold one at most."""
    given = [kind for kind in NATIVE if raw.get(kind) is not None]
    if len(given) > 1:
        raise GrammarError(f"only one of {', '.join(NATIVE)} may be given, got {' and '.join(given)}", param=given[1])
    return _native(given[0], raw[given[0]]) if given else None


def _native(kind: Kind, value: Any) -> Constraint:
    if isinstance(value, dict | list | bool) and kind in ("json_schema", "structural_tag"):
        return Constraint(kind, dump(value, kind))
    if kind == "choice":
        return choice(_options(value))
    if not isinstance(value, str):
        raise GrammarError(f"{kind} must be a string", param=kind)
    return Constraint(kind, "true" if value == ANY_JSON else value)


def from_response_format(raw: Mapping[str, Any], where: str = "response_format") -> Constraint | None:
    """OpenAI's `response_format`, and SGLang's structural tags in their old and new shape. None for plain text.

    A schema is enforced as a whole unless the request says `"strict": false`.
    """
    kind = raw.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json_object")
    if kind == "structural_tag":
        return Constraint("structural_tag", dump(raw, where))
    if kind != "json_schema":
        known = "text, json_object, json_schema or structural_tag"
        raise GrammarError(f"{where}.type must be {known}", param=f"{where}.type")
    body = raw.get("json_schema")
    if not isinstance(body, dict):
        raise GrammarError(f"{where}.json_schema must be an object", param=f"{where}.json_schema")
    schema = body.get("schema", body.get("schema_", {}))
    if not isinstance(schema, dict | bool):
        raise GrammarError(f"{where}.json_schema.schema must be an object", param=f"{where}.json_schema.schema")
    return Constraint("json_schema", dump(schema, where), strict=body.get("strict") is not False)


def _options(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise GrammarError("choice must be a list of strings", param="choice")
    return value


def choice(options: Sequence[str]) -> Constraint:
    """One of these texts."""
    return Constraint("choice", dump(list(options), "choice"))


def dump(value: Any, param: str) -> str:
    """JSON text of what a request held; raises `GrammarError` where it has none (lone surrogates, infinities)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as e:
        raise GrammarError(f"{param} cannot be written as JSON: {type(e).__name__}", param=param) from None
    return text
