"""Grammars that are meant to hurt: too deep, too large, too ambiguous, or without end."""

from __future__ import annotations

import json
from typing import Any

from ramify.grammar.constraint import Constraint


def _schema(schema: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(schema))


def deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def nested(depth: int, keyword: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {keyword: [schema, {"type": "object", "properties": {"a": schema}, "required": ["a"]}]}
    return schema


def chain(length: int, step: Any) -> dict[str, Any]:
    """Definitions of which each uses the one before it twice."""
    names: dict[str, Any] = {"a0": {"type": "integer"}}
    for n in range(1, length):
        names[f"a{n}"] = step({"$ref": f"#/$defs/a{n - 1}"})
    return {"$defs": names, "$ref": f"#/$defs/a{length - 1}"}


def products(count: int) -> dict[str, Any]:
    choices = [[{"properties": {f"p{i}_{j}": {"minimum": j}}} for j in range(4)] for i in range(count)]
    return {"type": "object", "allOf": [{"anyOf": some} for some in choices]}


HOSTILE = {
    "deep nesting": _schema(deep(30)),
    "too deep nesting": _schema(deep(70)),
    "exponential oneOf": _schema(nested(10, "oneOf")),
    "exponential anyOf": _schema(nested(11, "anyOf")),
    "product of anyOf": _schema(products(12)),
    "doubling references": _schema(chain(60, lambda ref: {"type": "array", "prefixItems": [ref, ref]})),
    "doubling allOf": _schema(chain(40, lambda ref: {"allOf": [ref, ref]})),
    "doubling anyOf": _schema(chain(40, lambda ref: {"anyOf": [ref, {"type": "array", "items": ref}]})),
    "huge enum": _schema({"enum": [f"value {n * 7919}" for n in range(9_999)]}),
    "huge object": _schema({"type": "object", "properties": {f"p{n}": {} for n in range(9_999)}}),
    "huge number of items": _schema({"type": "array", "items": {"const": 0}, "minItems": 10**9}),
    "huge length": _schema({"type": "string", "minLength": 10**9}),
    "huge multiple": _schema({"type": "integer", "multipleOf": 999_983}),
    "least common multiple": _schema({"allOf": [{"multipleOf": p} for p in (7, 11, 13, 17, 19, 23, 29)]}),
    "huge constant": _schema({"const": "hello world " * 20_000}),
    "constants without end": _schema({"type": "array", "items": {"const": "ab" * 500}, "minItems": 10**6}),
    "catastrophic pattern": _schema({"type": "string", "pattern": "(a{1,1000}){1,1000}"}),
    "pattern with states": _schema({"type": "string", "pattern": "^(a|b)*a(a|b){28}$"}),
    "catastrophic regex": Constraint("regex", "(a{1,1000}){1,1000}"),
    "nested stars": Constraint("regex", "((a*)*)*b"),
    "exponential automaton": Constraint("regex", "(a|b)*a(a|b){28}"),
    "three windows": Constraint("regex", "(.*a.{50}|.*b.{60}|.*c.{70}){3}"),
    "unicode classes": Constraint("regex", r"(\p{L}{1,50}\p{N}{1,50}){1,50}"),
    "forced text": Constraint("regex", "x(a{200}){200}"),
    "recursive": Constraint("ebnf", 'root ::= root root | "a" | "b"'),
    "mutually recursive": Constraint("ebnf", 'root ::= x\nx ::= y x | x y | "a"\ny ::= x | y y | "b"'),
    "never ends": Constraint("ebnf", 'root ::= "a" root'),
    "no text": Constraint("ebnf", "root ::= x\nx ::= x"),
    "nested counts": Constraint("ebnf", 'root ::= a{9999}\na ::= b{9999}\nb ::= "(" root ")" | "x"'),
    "long chain of rules": Constraint(
        "ebnf", "root ::= r1999\nr1 ::= [a-z]\n" + "\n".join(f"r{n} ::= r{n - 1}" for n in range(2, 2000))
    ),
    "many groups": Constraint("ebnf", "root ::= " + '("a" | "b")' * 5_000),
    "NUL in a constant": _schema({"enum": ["a\0b", "c"]}),
    "NUL in a name": _schema({"type": "object", "properties": {"\0": {"type": "null"}}, "required": ["\0"]}),
    "NUL in a regex": Constraint("regex", "a\0b|\\x00"),
    "NUL in a grammar": Constraint("ebnf", 'root ::= "a\0b" | "\\x00"'),
    "NUL in a choice": Constraint("choice", json.dumps(["a\0b", "\0"])),
}
