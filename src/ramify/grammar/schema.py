"""JSON schemas as data: read within limits, walked, and looked through for what an error is about."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from ramify.grammar.constraint import MAX_DEPTH, MAX_SOURCE, GrammarError

SCHEMA = frozenset(
    "additionalItems additionalProperties contains else if items not propertyNames then unevaluatedItems "
    "unevaluatedProperties".split()
)
SCHEMAS = frozenset("allOf anyOf items oneOf prefixItems".split())
NAMED_SCHEMAS = frozenset("$defs definitions dependentSchemas patternProperties properties".split())
PLAIN_NAME = re.compile(r"[A-Za-z_$][\w$-]*")


def read(text: str, param: str) -> Any:
    """JSON of a request, within the limits of size and depth; raises `GrammarError`."""
    try:
        size = len(text.encode())
        if size > MAX_SOURCE:
            raise GrammarError(f"{param} has {size} bytes; the limit is {MAX_SOURCE}", param=param)
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except GrammarError:
        raise
    except RecursionError:
        raise _too_deep(param) from None
    except ValueError as e:
        raise GrammarError(f"{param} is not JSON: {e}", param=param) from None
    _check_depth(value, param)
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits} is too large a number")
    return value


def _too_deep(param: str) -> GrammarError:
    return GrammarError(f"{param} is nested deeper than {MAX_DEPTH} levels", param=param, construct="nesting")


def _check_depth(value: Any, param: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level if isinstance(node, dict | list) for child in _inside(node)]
        if not level:
            return
    raise _too_deep(param)


def _inside(node: dict[str, Any] | list[Any]) -> Iterator[Any]:
    yield from node.values() if isinstance(node, dict) else node


# -- walking ---------------------------------------------------------------------------------------------------------


def walk(schema: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema object within a schema, with its path; not what stands in `const`, `enum` or `examples`."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key, value in schema.items():
        if isinstance(value, dict):
            if key in NAMED_SCHEMAS:
                for name, child in value.items():
                    yield from walk(child, f"{path}.{key}{_step(name)}")
            elif key in SCHEMA:
                yield from walk(value, f"{path}.{key}")
        elif isinstance(value, list) and key in SCHEMAS:
            for index, child in enumerate(value):
                yield from walk(child, f"{path}.{key}[{index}]")


def _step(name: str) -> str:
    return f".{name}" if PLAIN_NAME.fullmatch(name) else f"[{json.dumps(name)}]"


def where(schema: Any, keyword: str, value: str | None = None) -> str:
    """Where a keyword stands first (with a value, if given): `" at $.properties.tags"`, or nothing if nowhere."""
    for path, node in walk(schema):
        if keyword in node and (value is None or node[keyword] == value):
            return f" at {path}"
    return ""


# -- explaining ------------------------------------------------------------------------------------------------------

UNKNOWN_KEYS = re.compile(r"Unimplemented keys: (\[.*\])")
UNKNOWN_FORMAT = re.compile(r"Unknown format: (.*)")
NAMED_BY = {  # signs in the library's errors, and the keyword they are about
    "oneOf constraints": "oneOf",
    "min/maxProperties": "minProperties",
    "patternProperties": "patternProperties",
    "circular references": "$ref",
    "multipleOf": "multipleOf",
}


def explain(wrong: str, param: str, schema: Any) -> GrammarError:
    """The library's complaint about a schema as an error that names the keyword and where it stands."""
    keyword = _offending(wrong, schema)
    if keyword is None:
        return GrammarError(f"{param}: {wrong}", param=param)
    value = found.group(1) if (found := UNKNOWN_FORMAT.search(wrong)) else None
    what = (f"{keyword} {value!r}" if value else repr(keyword)) + where(schema, keyword, value)
    return GrammarError(f"{param}: {what} cannot be enforced: {wrong}", param=param, construct=keyword)


def _offending(wrong: str, schema: Any) -> str | None:
    if keys := UNKNOWN_KEYS.search(wrong):
        return json.loads(keys.group(1))[0]
    if UNKNOWN_FORMAT.search(wrong):
        return "format"
    if "regex" in wrong and where(schema, "pattern"):
        return "pattern"
    return next((keyword for sign, keyword in NAMED_BY.items() if sign in wrong), None)


def heaviest(schema: Any) -> str:
    """The largest part of a schema in words, for the error of one that takes too long."""
    size, path, keyword = max(
        ((_weight(key, value), path, key) for path, node in walk(schema) for key, value in node.items()),
        default=(0, "$", ""),
    )
    return f"its heaviest part is {keyword!r} at {path} ({size:g})" if size > 1 else ""


def _weight(keyword: str, value: Any) -> float:
    """Entries of an object or array, or the number itself where every residue is a state."""
    if isinstance(value, dict | list):
        return len(value)
    return float(value) if keyword == "multipleOf" and isinstance(value, int | float) else 0
