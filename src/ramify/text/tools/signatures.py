"""What a request's tools say: their names, and the types of their parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ramify.text.tools.values import JSON, PYTHON, convert

ANYTHING: frozenset[str] = frozenset()
STRING = frozenset(["string"])
NUMBERS = frozenset(["number", "integer"])
TYPES = STRING | NUMBERS | {"object", "array", "boolean", "null"}
SYNONYMS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "dict": "object", "list": "array"}


class Signatures:
    """The tools of one request, in OpenAI's form (`{"type": "function", "function": {...}}`) or the inner object alone.

    With `tools` None any name is taken for a tool's. A call of a tool that is not there is no call: it is passed on as
    text, for the client could do nothing with it and nothing may be lost.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None) -> None:
        self._any = tools is None
        functions = [_mapping(tool.get("function", tool)) for tool in tools or ()]
        self._parameters = {f["name"]: _schema_of(f) for f in functions if isinstance(f.get("name"), str)}

    def __contains__(self, name: str) -> bool:
        return bool(name) and (self._any or name in self._parameters)

    def types(self, name: str, parameter: str) -> frozenset[str]:
        """JSON types that a parameter may have; empty if nothing is said about it."""
        root = self._parameters.get(name, {})
        return _types(_mapping(root.get("properties")).get(parameter), root)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _schema_of(function: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(function.get("parameters", function.get("input_schema")))


def _types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """Every schema and every reference is looked at once, so the work is linear in the tool's schema."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = [schema]
    while todo:
        one = todo.pop()
        if not isinstance(one, Mapping):
            return ANYTHING
        own = {SYNONYMS.get(name, name) for name in _own_types(one)}
        branches = list(_branches(one, root, seen))
        if not own <= TYPES or not (own or branches or "$ref" in one):
            return ANYTHING
        found |= own | ({"null"} if one.get("nullable") is True else set())
        todo += branches
    return frozenset(found)


def _own_types(schema: Mapping[str, Any]) -> Iterator[str]:
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (entry for entry in declared if isinstance(entry, str))
    elif isinstance(schema.get("enum"), list):
        yield from map(_type_of, map(json.dumps, schema["enum"]))
    elif "const" in schema:
        yield _type_of(json.dumps(schema["const"]))


def _branches(schema: Mapping[str, Any], root: Mapping[str, Any], seen: set[str]) -> Iterator[Any]:
    """Schemas of which the value has to fit one; a reference that was `seen` adds nothing."""
    if "type" in schema:
        return
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            yield from schema[word]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        seen.add(reference)
        yield _follow(reference, root)


def _follow(reference: str, root: Mapping[str, Any]) -> Any:
    """A reference inside the tool's own schema, `#/$defs/X`; nothing if it leads anywhere else."""
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = _mapping(found).get(name)
    return found


def _type_of(value: str) -> str:
    """The JSON type of a value, from its JSON."""
    return {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}.get(
        value[0], "number"
    )


def _fits(value: str, types: frozenset[str]) -> bool:
    kind = _type_of(value)
    if kind == "string":  # quotes that the model wrote are part of its string
        return False
    return not types or kind in types or (kind == "number" and not types.isdisjoint(NUMBERS))


def as_json(text: str, types: frozenset[str]) -> str:
    """The JSON of a parameter that the model wrote as plain text.

    What can only be a string is one. Else the text is a value if it reads as one of a type that the schema allows, in
    JSON or, where the schema names types, in Python's notation; and if not it is a string, as it stands.
    """
    for dialect in () if types == STRING else (JSON, PYTHON) if types else (JSON,):
        value = convert(text, dialect)
        if value is not None and _fits(value, types):
            return value
    return json.dumps(text, ensure_ascii=False)
