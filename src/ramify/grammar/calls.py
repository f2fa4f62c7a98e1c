"""Constraints for answers that hold tool calls and reasoning, from how the model writes them.

Structural tags are put together here, and translated like those that requests bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramify.grammar.constraint import Constraint, dump
from ramify.grammar.translate import check
from ramify.text.reasoning.format import ReasoningFormat
from ramify.text.tools.bodies import Pairs
from ramify.text.tools.format import Frame, ToolFormat
from ramify.text.tools.signatures import Signatures

Format = dict[str, Any]  # a format of a structural tag
GAP = r"\n{0,2}"  # what models write between the end of thinking and the answer
ANY_TEXT: Format = {"type": "any_text"}
COMPOSED = ("$ref", "anyOf", "oneOf", "allOf", "type")


@dataclass(frozen=True)
class Callable:
    """A tool that may be called; `parameters` is the JSON schema of its arguments, None for any object."""

    name: str
    parameters: Mapping[str, Any] | None = None


def can_hold(tools: ToolFormat) -> bool:
    """Whether calls in this format can be held to a schema as the model writes them."""
    return bool(tools.shapes) and tools.frame("f").kind in ("json", "pairs")


def can_trigger(tools: ToolFormat) -> bool:
    """Whether a text marks the beginning of a call, so that calls can be told from text before they are over."""
    return can_hold(tools) and bool(tools.frame("f").trigger)


def only_calls(tools: ToolFormat, functions: Sequence[Callable], *, parallel: bool) -> Format:
    """At least one call, and nothing else; no more than one unless `parallel`."""
    frames = [tools.frame(function.name) for function in functions]
    return _sequence([_const(frames[0].begin), _row(frames, functions, parallel), _const(frames[0].end)])


def text_with_calls(tools: ToolFormat, functions: Sequence[Callable], *, parallel: bool) -> Format:
    """Free text, in which a trigger opens a call. `can_trigger` has to hold."""
    frames = [tools.frame(function.name) for function in functions]
    first = frames[0]
    tags = [_tag(frame, function) for frame, function in zip(frames, functions, strict=True)]
    if first.begin:
        row = _row(frames, functions, parallel)
        tags = [{"type": "tag", "begin": first.begin, "content": row, "end": first.end}]
    triggers = sorted({frame.trigger for frame in frames})
    return {"type": "triggered_tags", "tags": tags, "triggers": triggers, "stop_after_first": not parallel}


def _row(frames: Sequence[Frame], functions: Sequence[Callable], parallel: bool) -> Format:
    separator = frames[0].separator
    return {
        "type": "tags_with_separator",
        "tags": [_tag(frame, function) for frame, function in zip(frames, functions, strict=True)],
        "separator": separator or "",
        "at_least_one": True,
        "stop_after_first": separator is None or not parallel,
    }


def either(one: Format, other: Format) -> Format:
    return {"type": "or", "elements": [one, other]}


def as_format(constraint: Constraint) -> Format | None:
    """Any constraint as a format, to be put together with others; None for structural tags of the old shape. Raises
    `GrammarError` for one that could not stand alone.
    """
    check(constraint)
    text = constraint.text
    match constraint.kind:
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "json_schema":
            return {"type": "json_schema", "json_schema": json.loads(text)}
        case "regex":
            return {"type": "regex", "pattern": text}
        case "ebnf":
            return {"type": "grammar", "grammar": text}
        case "choice":
            return {"type": "or", "elements": [_const(option) for option in json.loads(text)]}
    return json.loads(text).get("format")


def constraint(format: Format, *, strict: bool, after: str = "") -> Constraint:
    """One constraint for all; `after`: see `Constraint`."""
    tag = {"type": "structural_tag", "format": format}
    return Constraint("structural_tag", dump(tag, "response_format"), strict=strict, after=after)


def with_thinking(format: Format, reasoning: ReasoningFormat) -> Format:
    """A block of reasoning may come first. `reasoning` says how it begins and ends."""
    gap: Format = _const(reasoning.resume) if reasoning.resume else {"type": "regex", "pattern": GAP}
    block = [_const(reasoning.begin[0]), ANY_TEXT, _const(reasoning.end[0]), gap]
    return _sequence([{"type": "optional", "content": {"type": "sequence", "elements": block}}, format])


def headed(format: Format, reasoning: ReasoningFormat) -> Format:
    """Content, below the head that answers have in some formats."""
    return _sequence([_const(reasoning.head), format])


def _sequence(formats: Sequence[Format]) -> Format:
    """One after the other, empty strings left out."""
    return {"type": "sequence", "elements": [f for f in formats if f != _const("")]}


def _const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _tag(frame: Frame, function: Callable) -> Format:
    content = _pairs(frame.body, function) if isinstance(frame.body, Pairs) else _json(function.parameters)
    return {"type": "tag", "begin": frame.before, "content": content, "end": frame.after}


def _json(parameters: Mapping[str, Any] | None) -> Format:
    """Arguments are an object, whatever the schema leaves open."""
    schema = dict(parameters or {})
    if not any(word in schema for word in COMPOSED):
        schema["type"] = "object"
    return {"type": "json_schema", "json_schema": schema}


# -- arguments between marks -------------------------------------------------------------------------------------------


def _pairs(body: Pairs, function: Callable) -> Format:
    """A pair for every property that is required, in the schema's order; others may be left out.

    What may be a string is text up to the end mark, whatever else the schema says of it. Anything else is JSON.
    """
    schema = function.parameters or {}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {"type": "star", "content": _pair(body, {"type": "regex", "pattern": r"\w{1,64}"}, True, ANY_TEXT)}
    signatures = Signatures([{"name": function.name, "parameters": schema}])
    required = schema.get("required") or ()
    elements: list[Format] = []
    for name, value in properties.items():
        types = signatures.types(function.name, name)
        is_text = not types or "string" in types
        pair = _pair(body, _const(name), is_text, _value(value, schema, is_text))
        elements.append(pair if name in required else {"type": "optional", "content": pair})
    return _sequence(elements)


def _pair(body: Pairs, key: Format, is_text: bool, value: Format) -> Format:
    line = "\n" if body.newlines else ""
    flag = f"{body.flag}{'true' if is_text else 'false'}" if body.flag else ""
    between, end = _const(flag + body.between + line), _const(f"{line}{body.end}\n")
    return _sequence([_const(body.open), key, between, value, end])


def _value(schema: Any, root: Mapping[str, Any], is_text: bool) -> Format:
    options = schema.get("enum") if isinstance(schema, Mapping) else None
    if is_text and isinstance(options, list) and options and all(isinstance(o, str) and o for o in options):
        return {"type": "or", "elements": [_const(option) for option in options]}
    if is_text:
        return ANY_TEXT
    definitions = {word: root[word] for word in ("$defs", "definitions") if word in root}
    return {"type": "json_schema", "json_schema": {**schema, **definitions}}
