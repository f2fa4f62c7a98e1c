"""A schema made ready for the grammar library: checked, freed of what asks nothing, within the bounds of a style.

Validators treat unknown formats as annotations (JSON Schema 2020-12, validation 7.2), and so do we: `format: int64`
asks nothing, while a standard format that the library does not know is refused by it. So are keywords it has no means
for; `schema.explain` says where they stand.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ramify.grammar.constraint import MAX_CONSTANT, MAX_VALUES, GrammarError, dump
from ramify.grammar.schema import walk
from ramify.grammar.style import Style

STANDARD_FORMATS = frozenset(
    "date-time time date duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference "
    "uuid uri-template json-pointer relative-json-pointer regex".split()
)
SCALARS = ["string", "number", "boolean", "null"]
ASSERTIONS = frozenset(
    "$ref $dynamicRef allOf anyOf const enum if not oneOf type properties patternProperties additionalProperties items "
    "prefixItems required format pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength "
    "maxLength minItems maxItems minProperties maxProperties".split()
)
FIXES_TEXT = frozenset("maxLength enum const".split())
SHAPES_TEXT = frozenset("pattern format".split())
ROOM = 8  # times the usual length of a string that one of a given shape may have
OVERLAYS = frozenset("allOf $dynamicRef $recursiveRef if".split())
CHOOSES = frozenset("anyOf oneOf $ref".split())
OF_OBJECTS = frozenset("properties patternProperties additionalProperties required".split())
ABOUT = {  # keywords that ask something of values of one type only
    "object": OF_OBJECTS | {"minProperties", "maxProperties"},
    "array": frozenset("items prefixItems minItems maxItems".split()),
    "string": frozenset("pattern format minLength maxLength".split()),
    "number": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
}


def prepare(schema: Any, param: str, strict: bool, style: Style) -> str:
    """JSON text of an object schema for the library, its options included. The schema is changed in place."""
    if isinstance(schema, bool):
        if not schema:
            raise GrammarError(f"{param} is false, which no value satisfies", param=param, construct="false")
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError(f"{param} must be a JSON object", param=param)
    for path, node in walk(schema):
        _check(node, path, param)
        _check_constants(node, path, param)
        _simplify(node)
    options: dict[str, Any] = {"whitespace_flexible": False, "lenient": not strict}
    options |= {"item_separator": re.escape(style.item_separator)}
    options |= {"key_separator": re.escape(style.key_separator)}
    if style.whitespace is not None:
        options["whitespace_pattern"] = style.whitespace
    if style.is_bounded:
        schema = restrict(schema, style)
    return dump({"x-guidance": options} | schema, param)


def _check(node: dict[str, Any], path: str, param: str) -> None:
    if "additionalItems" in node and "allOf" in node:  # llguidance 1.9 counts the items of both
        message = f"{param}: 'additionalItems' beside 'allOf' at {path} cannot be enforced"
        raise GrammarError(message, param=param, construct="additionalItems")
    for keyword in ("enum", "properties", "required", "anyOf", "oneOf", "allOf", "prefixItems"):
        size = len(node[keyword]) if isinstance(node.get(keyword), dict | list) else 0
        if size > MAX_VALUES:
            raise GrammarError(
                f"{param}: {keyword!r} at {path} has {size} entries; the limit is {MAX_VALUES}",
                param=param,
                construct=keyword,
            )


def _check_constants(node: dict[str, Any], path: str, param: str) -> None:
    """What has to be said as it is, is forced at once, as often as a schema repeats it."""
    names = [*_entries(node, "properties", dict)]
    constants = {"const": [node.get("const")], "enum": _entries(node, "enum", list), "properties": names}
    for keyword, values in constants.items():
        longest = max((len(json.dumps(value)) for value in values), default=0)
        if longest > MAX_CONSTANT:
            message = f"{param}: {keyword!r} at {path} has a value of {longest} characters; the limit is {MAX_CONSTANT}"
            raise GrammarError(message, param=param, construct=keyword)


def _simplify(node: dict[str, Any]) -> None:
    """Drop what asks nothing of a value, and options of the library that are not the request's to set."""
    node.pop("x-guidance", None)
    if node.get("uniqueItems") is False:
        del node["uniqueItems"]
    if isinstance(node.get("format"), str) and node["format"] not in STANDARD_FORMATS:
        del node["format"]


# -- within bounds ---------------------------------------------------------------------------------------------------


def restrict(schema: dict[str, Any], style: Style) -> dict[str, Any]:
    """The schema within the bounds of a style, changed in place. One that lays schemas over each other is left as it
    is: what is closed in one of them would forbid the others.
    """
    if any(_overlays(node) for _, node in walk(schema)):
        return schema
    schema = _opened(schema, style)
    for _, node in walk(schema):
        if style.closed:
            _type(node)
        _fill(node, style)
        _bound(node, style)
    return schema


def _overlays(node: dict[str, Any]) -> bool:
    return bool(OVERLAYS & node.keys()) or bool(CHOOSES & node.keys() and OF_OBJECTS & node.keys())


def _opened(schema: Any, style: Style) -> Any:
    """A schema that says nothing is one of the scalars."""
    says_nothing = schema is True or (isinstance(schema, dict) and not ASSERTIONS & schema.keys())
    if not says_nothing or not style.closed:
        return schema
    return ({} if schema is True else schema) | {"type": SCALARS}


def _type(node: dict[str, Any]) -> None:
    """A node that names no type is of those that it says something about, where it does not choose its values."""
    types = [name for name, keywords in ABOUT.items() if keywords & node.keys()]
    if types and not node.keys() & (CHOOSES | {"type", "const", "enum"}):
        node["type"] = types


def _fill(node: dict[str, Any], style: Style) -> None:
    """Open values within a node, and what it leaves out about its own."""
    types, properties = _types(node), _entries(node, "properties", dict)
    if style.closed and not CHOOSES & node.keys():
        if "object" in types and "additionalProperties" not in node:
            listed = properties.keys() | _entries(node, "patternProperties", dict).keys()
            node["additionalProperties"] = not listed or not listed >= {*map(str, _entries(node, "required", list))}
        if "array" in types and "items" not in node:
            node["items"] = True
    for key in ("additionalProperties", "items"):
        if key in node:
            node[key] = _opened(node[key], style)
    for name, child in properties.items():
        properties[name] = _opened(child, style)


def _bound(node: dict[str, Any], style: Style) -> None:
    types = _types(node)
    if style.strings is not None and "string" in types and not FIXES_TEXT & node.keys():
        room = style.strings * (ROOM if SHAPES_TEXT & node.keys() else 1)
        node["maxLength"] = max(room, _number(node.get("minLength")))
    if style.digits is not None and {"number", "integer"} & {*map(str, types)}:
        _bound_number(node, 10**style.digits)
    if style.items is None:
        return
    if "array" in types and "maxItems" not in node:
        least = max(_number(node.get("minItems")), len(_entries(node, "prefixItems", list)))
        node["maxItems"] = max(style.items, least)
    is_map = not node.get("properties") and not node.get("required") and node.get("additionalProperties") is not False
    if "object" in types and is_map and "maxProperties" not in node:
        node["maxProperties"] = max(style.items, _number(node.get("minProperties")))


def _bound_number(node: dict[str, Any], most: int) -> None:
    """Both ends within reach of the one that is given; and no endless fractions."""
    low, high = (_first_number(node, f"{end}imum", f"exclusive{end.title()}imum") for end in ("min", "max"))
    if low is None:
        node["minimum"] = -most if high is None else high - most
    if high is None:
        node["maximum"] = most if low is None else low + most
    if low is None and high is None and "multipleOf" not in node:
        node["type"] = ["integer" if kind == "number" else kind for kind in _types(node)]


def _first_number(node: dict[str, Any], *keys: str) -> int | float | None:
    values = (node.get(key) for key in keys)
    return next((value for value in values if isinstance(value, int | float) and not isinstance(value, bool)), None)


def _types(node: dict[str, Any]) -> list[Any]:
    """The types a node names."""
    types = node.get("type")
    return types if isinstance(types, list) else [types]


def _entries(node: dict[str, Any], key: str, kind: type) -> Any:
    """What stands under a keyword, if it is of the kind it should be."""
    value = node.get(key)
    return value if isinstance(value, kind) else kind()


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
