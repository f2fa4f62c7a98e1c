"""Arguments that are not JSON become JSON, typed by the tool's schema."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from answers import calls_of, feed, parser
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.text.tools.signatures import Signatures, as_json
from ramify.text.tools.values import JSON, PYTHON, convert

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
written_json = st.builds(
    lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only),
    json_values,
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(written_json)
def test_json_stays_as_it_is(text: str) -> None:
    assert convert(text, JSON) == text


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_python_literals(value: Any) -> None:
    assert json.loads(convert(repr(value), PYTHON) or "?") == value


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \\u"ab\n', max_size=24))
def test_json_is_what_a_json_parser_takes(text: str) -> None:
    """But for control characters, which are escaped, and for backslashes that begin no escape, which stay."""
    converted = convert(text, JSON)
    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        if converted is not None:
            assert "\\" in text or "\n" in text
            json.loads(converted)
    else:
        assert converted is not None
        assert json.loads(converted) == expected


def refuse(constant: str) -> None:
    raise ValueError(constant)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a\nb\tc\x00"', "a\nb\tc\x00"),
        (r'"\d+\'"', r"\d+\'"),
        (r'"\u12"', r"\u12"),
        (r'"\ud83c\udf88"', "🎈"),
    ],
)
def test_strings_of_json_that_models_write(text: str, value: str) -> None:
    assert json.loads(convert(text, JSON) or "?") == value


@pytest.mark.parametrize(
    "text",
    [
        r"'it\'s \n \t \\ \" \x41 \u00e9 \U0001F388 \a \v'",
        "'''three 'quotes' \"\n'''",
        '"""more"""',
        "''",
        "'東京'",
        "[1, 2.5, -3, +4, 1_000, 0x1F, .5, 5., 1e3, True, None, ]",
        "{'a': {'b': []}, \"c\": 'd',}",
        "'a\\\nb'",
    ],
)
def test_literals_as_python_reads_them(text: str) -> None:
    assert json.loads(convert(text, PYTHON) or "?") == ast.literal_eval(text)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "1j", "a", "[1", "[1 2]", "{1: 2}", "{'a'}", "(1)", "1 2", "'a", "--1"]
)
def test_what_is_no_value(text: str) -> None:
    assert convert(text, PYTHON) is None


def test_a_lone_surrogate_can_be_sent() -> None:
    (convert(r"'\ud800'", PYTHON) or "?").encode()
    events = feed(parser("pythonic"), [r"[search(limit='\ud800')]"])
    assert calls_of(events) == [("search", {"limit": "\ud800"})]
    "".join(map(str, events)).encode()


DEFINITIONS = {"kind": {"enum": ["a", 1]}, "size": {"type": "integer"}, "again": {"$ref": "#/$defs/again"}}
PROPERTIES = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "null": {"type": ["string", "null"]},
    "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    "enum": {"enum": ["1", "b"]},
    "const": {"const": 5},
    "size": {"$ref": "#/$defs/size"},
    "kind": {"$ref": "#/$defs/kind"},
    "again": {"$ref": "#/$defs/again"},
    "away": {"$ref": "http://example.com/x"},
    "float": {"type": "float"},
    "odd": {"type": "any"},
    "nullable": {"type": "integer", "nullable": True},
    "nothing": {},
    "wrong": "no schema",
}
TYPED = Signatures(
    [{"function": {"name": "f", "parameters": {"type": "object", "properties": PROPERTIES, "$defs": DEFINITIONS}}}]
)


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        ("string", "5", "5"),
        ("string", "{}", "{}"),
        ("string", '"a"', '"a"'),
        ("string", " a\n", " a\n"),
        ("integer", "5", 5),
        ("integer", " -5 ", -5),
        ("integer", "five", "five"),
        ("integer", '"5"', '"5"'),
        ("number", "1e3", 1000.0),
        ("number", "NaN", "NaN"),
        ("boolean", "true", True),
        ("boolean", "False", False),
        ("boolean", "1", "1"),
        ("object", '{"a": [1]}', {"a": [1]}),
        ("object", "{'a': None}", {"a": None}),
        ("object", "{'a'}", "{'a'}"),
        ("array", "[1, 2", "[1, 2"),
        ("array", '["a"]', ["a"]),
        ("null", "null", None),
        ("null", "None", None),
        ("null", "5", "5"),
        ("either", "5", 5),
        ("either", "x", "x"),
        ("enum", "1", "1"),
        ("const", "5", 5),
        ("size", "5", 5),
        ("kind", "1", 1),
        ("kind", "a", "a"),
        ("again", "1", 1),
        ("away", "[1]", [1]),
        ("float", "2.5", 2.5),
        ("odd", "true", True),
        ("odd", "True", "True"),
        ("nullable", "null", None),
        ("nullable", "3", 3),
        ("nothing", "02139", "02139"),
        ("nothing", "", ""),
        ("wrong", "7", 7),
        ("unheard of", "null", None),
    ],
)
def test_texts_get_the_type_of_the_schema(parameter: str, text: str, value: Any) -> None:
    assert json.loads(as_json(text, TYPED.types("f", parameter))) == value
    answer = f"<tool_call>f\n<arg_key>{parameter}</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"
    assert calls_of(feed(parser("glm45", signatures=TYPED), list(answer))) == [("f", {parameter: value})]


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        ("integer", "'5'", 5),
        ("integer", "'x'", "x"),
        ("object", "\"{'a': [None]}\"", {"a": [None]}),
        ("boolean", "'True'", True),
        ("string", "'5'", "5"),
        ("string", "5", 5),
        ("nothing", "'5'", "5"),
        ("array", "['a', \"b\"]", ["a", "b"]),
    ],
)
def test_python_arguments(parameter: str, text: str, value: Any) -> None:
    events = feed(parser("pythonic", signatures=TYPED), list(f"[f({parameter}={text})]"))
    assert calls_of(events) == [("f", {parameter: value})]


@pytest.mark.parametrize(
    "value",
    ["", "\n", "a\n", "\na", "a</parameter>b", "x\n</parameter>\ny", "<parameter=b>", "</tool_call>", "</function"],
)
def test_any_string_between_marks(value: str) -> None:
    answer = f"<tool_call>\n<function=f>\n<parameter=string>\n{value}\n</parameter>\n</function>\n</tool_call>"
    assert calls_of(feed(parser("qwen3_coder", signatures=TYPED), list(answer))) == [("f", {"string": value})]


def test_tools_in_other_forms() -> None:
    for tool in (
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}},
        {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}},
        {"name": "f", "input_schema": {"properties": {"a": {"type": "integer"}}}},
    ):
        signatures = Signatures([tool])
        assert "f" in signatures
        assert "g" not in signatures
        assert signatures.types("f", "a") == {"integer"}
    for broken in (
        {},
        {"function": None},
        {"name": 5},
        {"name": "f", "parameters": []},
        {"name": "f", "parameters": None},
    ):
        assert Signatures([broken]).types("f", "a") == frozenset()


def test_schemas_that_refer_to_themselves_many_times() -> None:
    again = {"anyOf": [{"$ref": f"#/$defs/d{n}"} for n in range(50)] + [{"type": "integer"}]}
    schema = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {f"d{n}": again for n in range(50)}}
    assert Signatures([{"name": "f", "parameters": schema}]).types("f", "a") == {"integer"}
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(20_000):
        deep = {"anyOf": [deep]}
    assert Signatures([{"name": "f", "parameters": {"properties": {"a": deep}}}]).types("f", "a") == {"string"}
