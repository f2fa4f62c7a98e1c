"""Each kind of constraint: what it lets through, what it does not, and how it names what it cannot do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grammars import accepts, json_schema, start, tokenizer, vocabulary

from ramify.core.errors import UserError
from ramify.grammar.constraint import (
    MAX_DEPTH,
    MAX_SOURCE,
    Constraint,
    GrammarError,
    choice,
    decode,
    from_response_format,
    from_sampling,
)
from ramify.grammar.constraint import (
    encode as to_wire,
)
from ramify.grammar.style import FIXED, Style
from ramify.grammar.translate import check

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def regex(pattern: str) -> Constraint:
    return Constraint("regex", pattern)


def ebnf(grammar: str) -> Constraint:
    return Constraint("ebnf", grammar)


def structural(layout: dict[str, Any]) -> Constraint:
    return Constraint("structural_tag", json.dumps({"type": "structural_tag", "format": layout}))


def tag(begin: str, content: dict[str, Any], end: str | list[str]) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def repeat(low: int, high: int, content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "repeat", "min": low, "max": high, "content": content}


# -- what is let through ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (Constraint("json_object"), ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1", "{", "{} "]),
        (json_schema(True), ["{}", "[1]", '"a"', "null"], ["nul", "'a'"]),
        (
            json_schema(PERSON),
            ['{"name": "Ann", "age": 3}', '{\n  "name": "\\n é",\n  "age": -3\n}'],
            ['{"name": "Ann"}', '{"name": "Ann", "age": "3"}', '{"name": "A", "age": 3, "x": 1}'],
        ),
        (json_schema({"enum": ["a", 1, None]}), ['"a"', "1", "null"], ["2", '"b"']),
        (regex("[0-9]{3}-[a-z]+"), ["123-abc"], ["123-", "12-abc", " 123-abc"]),
        (regex("^(yes|no)$"), ["yes", "no"], ["yesno", ""]),
        (regex(r"\d+\s\w"), ["12 a", "1\t_"], ["٣ a", "12a"]),
        (regex("a*?b"), ["b", "aaab"], ["aaa"]),
        (regex('[^/"]+/"[[\\]]'), ['ab/"[', 'é/"]'], ['/"[', 'a/b"[']),
        (regex("(?i)ab{2}"), ["ABb", "abb"], ["ab"]),
        (regex(""), [""], ["a"]),
        (choice(["yes", "no", "yesterday"]), ["yes", "yesterday", "no"], ["ye", "yesno", ""]),
        (ebnf('root ::= "a" [b-c]* (word | "d"){2,3} # end\nword ::= [A-Z]+'), ["abcDd", "aXdX"], ["ad", "abcd"]),
        (ebnf('root ::= expr\nexpr ::= t ("+" t)*\nt ::= [0-9]+ | "(" expr ")"'), ["1+(2+34)", "7"], ["1+", "()"]),
        (ebnf('root ::= [a-z]+ "x" | "(" root ")"'), ["abx", "(abx)", "xx"], ["ab", "(x)"]),
        (ebnf(r'root ::= "\"\n\u00e9\x41" [\]\-^]'), ['"\néA]', '"\néA-', '"\néA^'], ['"\néA']),
        (ebnf('root ::= "a" | '), ["a", ""], ["b"]),
    ],
    ids=lambda value: value.kind if isinstance(value, Constraint) else "",
)
def test_texts(constraint: Constraint, good: list[str], bad: list[str]) -> None:
    matcher = start(constraint)
    assert [text for text in good if not accepts(matcher, text)] == []
    assert [text for text in bad if accepts(matcher, text)] == []


def test_a_regular_stretch_is_one_terminal() -> None:
    """The lexer never gives back what it has taken: two terminals in a row would take the "x" for the first."""
    assert accepts(start(ebnf('root ::= "(" root ")" | word "x"\nword ::= [a-z]+')), "(abx)")


LEGACY = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=a>", "schema": PERSON, "end": "</f>"}, {"begin": "<g>", "schema": {}, "end": "</g>"}],
    "triggers": ["<f=", "<g"],
}


def test_structural_tags_of_the_old_shape() -> None:
    matcher = start(Constraint("structural_tag", json.dumps(LEGACY)))
    assert accepts(matcher, 'see <f=a>{"name": "n", "age": 1}</f> and <g>[1]</g>!')
    assert not accepts(matcher, "see <f=b")
    at_once = start(Constraint("structural_tag", json.dumps(LEGACY | {"at_least_one": True})))
    assert accepts(at_once, "<g>null</g> done")
    assert not accepts(at_once, "so <g>null</g>")


DIGITS = {"type": "regex", "pattern": "[0-9]+"}
NESTED = {"type": "grammar", "grammar": 'root ::= "(" root ")" | "z"'}


@pytest.mark.parametrize(
    ("layout", "good", "bad"),
    [
        ({"type": "const_string", "value": "ab"}, ["ab"], ["a", "abc"]),
        ({"type": "json_schema", "json_schema": {"type": "integer"}}, ["12"], ["1.5", "a"]),
        ({"type": "any_text"}, ["", "any\nthing"], []),
        ({"type": "any_text", "excludes": ["no", "NO"]}, ["yes n o"], ["yes no"]),
        ({"type": "or", "elements": [DIGITS, NESTED]}, ["12", "((z))"], ["(12)", "1z"]),
        ({"type": "sequence", "elements": [DIGITS, {"type": "const_string", "value": "5"}]}, ["15", "555"], ["5"]),
        (
            {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "const_string", "value": "END"}, DIGITS]},
            ["abEND1", "END22"],
            ["ab", "abEND", "ENDEND1"],
        ),
        ({"type": "optional", "content": DIGITS}, ["", "1"], ["1a"]),
        ({"type": "star", "content": NESTED}, ["", "z(z)z"], ["(z"]),
        ({"type": "plus", "content": NESTED}, ["z"], [""]),
        ({"type": "repeat", "min": 2, "max": 3, "content": NESTED}, ["zz", "z(z)z"], ["z", "zzzz"]),
        ({"type": "repeat", "min": 2, "max": -1, "content": NESTED}, ["zz", "zzzzz"], ["z"]),
        (tag("<t>", {"type": "any_text"}, "</t>"), ["<t>a<b</t>"], ["<t>a</t>b", "<t>a"]),
        (tag("<t>", {"type": "any_text"}, ["</t>", "<u>"]), ["<t>a</t>", "<t>a<u>"], ["<t>a"]),
        (
            {"type": "tags_with_separator", "tags": [tag("<", DIGITS, ">"), tag("{", NESTED, "}")], "separator": ", "},
            ["", "<1>", "<1>, {(z)}, <2>"],
            ["<1>,", "<1><2>"],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<"], "tags": [tag("<a>", DIGITS, "</a>")], "excludes": ["#"]},
            ["x", "x<a>1</a>y"],
            ["x#", "x<b"],
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_formats_of_structural_tags(layout: dict[str, Any], good: list[str], bad: list[str]) -> None:
    matcher = start(structural(layout))
    assert [text for text in good if not accepts(matcher, text)] == []
    assert [text for text in bad if accepts(matcher, text)] == []


def test_a_text_that_spells_a_special_token_means_the_token() -> None:
    special = tokenizer().backend.token_to_id("<|im_start|>")
    matcher = start(structural(tag("a<|im_start|>", DIGITS, "")))
    assert matcher.forced()[1] == special
    explicit = start(structural({"type": "sequence", "elements": [{"type": "token", "token": "<|im_start|>"}, DIGITS]}))
    assert explicit.forced() == [special]
    assert not accepts(start(Constraint("json_object")), "<|im_start|>")


# -- white space and bounds ------------------------------------------------------------------------------------------


def test_white_space_is_bounded() -> None:
    matcher = start(json_schema(PERSON))
    assert not accepts(matcher, '{"name":  "A","age":1}')
    assert not accepts(matcher, '{\n\n"name":"A","age":1}')
    assert not accepts(matcher, "{\n" + " " * 33 + '"name":"A","age":1}')


def test_separators_can_be_fixed() -> None:
    matcher = start(json_schema(PERSON), FIXED)
    assert accepts(matcher, '{"name": "A", "age": 1}')
    assert not accepts(matcher, '{"name":"A", "age": 1}')
    assert not accepts(matcher, '{ "name": "A", "age": 1}')


@pytest.mark.parametrize(
    ("schema", "bad"),
    [
        ({"type": "string"}, ['"abcdef"']),
        ({"type": "array", "items": {}}, ["[1, 2, 3]", "[{}]"]),
        ({"type": "object"}, ['{"a": {}}', '{"a":1, "b":2, "c":3}']),
        ({"type": "object", "properties": {"a": {}}}, ['{"b": 1}', '{"a": []}']),
    ],
)
def test_bounds_leave_out_the_long_and_the_open(schema: dict[str, Any], bad: list[str]) -> None:
    free, short = start(json_schema(schema)), start(json_schema(schema), Style(strings=4, items=2, closed=True))
    for text in bad:
        assert accepts(free, text)
        assert not accepts(short, text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 5},
        {"type": "array", "prefixItems": [{"type": "null"}] * 4, "minItems": 4},
        {"type": "object", "required": ["z"]},
        {"type": "object", "properties": {"a": {}}, "required": ["a", "b"]},
        {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}, "required": ["a", "b"]}]},
        {"properties": 5, "type": ["object", 7]},
        {"type": "array", "prefixItems": 3, "minItems": "x"},
    ],
)
def test_bounds_never_contradict_the_schema(schema: dict[str, Any]) -> None:
    """What compiles without them compiles with them; what is malformed is refused in words either way."""
    try:
        start(json_schema(schema))
    except GrammarError:
        with pytest.raises(GrammarError):
            start(json_schema(schema), Style(strings=4, items=2, closed=True))
    else:
        start(json_schema(schema), Style(strings=4, items=2, closed=True))


# -- from requests ---------------------------------------------------------------------------------------------------


def test_from_sampling_parameters() -> None:
    assert from_sampling({"temperature": 1}) is None
    assert from_sampling({"regex": "a"}) == Constraint("regex", "a")
    assert from_sampling({"json_schema": "$$ANY$$"}) == Constraint("json_schema", "true")
    assert from_sampling({"json_schema": {"type": "null"}}) == json_schema({"type": "null"})
    with pytest.raises(GrammarError, match="only one of"):
        from_sampling({"regex": "a", "ebnf": "b"})
    with pytest.raises(GrammarError, match="regex must be a string"):
        from_sampling({"regex": 3})


def test_from_response_format() -> None:
    assert from_response_format({"type": "text"}) is None
    assert from_response_format({"type": "json_object"}) == Constraint("json_object")
    made = from_response_format({"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}})
    assert made == json_schema(PERSON)
    loose = from_response_format({"type": "json_schema", "json_schema": {"schema": PERSON, "strict": False}})
    assert loose == json_schema(PERSON, strict=False)
    assert from_response_format(LEGACY) == Constraint("structural_tag", json.dumps(LEGACY))
    for wrong in ({"type": "yaml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": 3}}):
        with pytest.raises(GrammarError):
            from_response_format(wrong)


def test_on_the_wire() -> None:
    constraint = Constraint("regex", "é\x01", strict=False, after="</think>")
    assert decode(to_wire(constraint)) == constraint


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "construct"),
    [
        (regex("(?=a)b"), "(?="),
        (regex("(?<!a)b"), "(?<!"),
        (regex(r"(a)\1"), r"\1"),
        (regex(r"\bword"), r"\b"),
        (regex("a$b"), "$"),
        (regex("a++"), "+"),
        (regex("(a"), "("),
        (regex("a)"), ")"),
        (regex("[a"), "["),
        (regex("*a"), "*"),
        (regex("a{3,2}"), "{3,2}"),
        (regex("(a{1,1000}){1,1000}"), "{1,1000}"),
        (regex("((a{100}){100}){100}"), "{100}"),
        (regex("(" * 100 + "a" + ")" * 100), "("),
        (regex("a\0"), "NUL"),
        (regex(r"\y"), r"\y"),
        (ebnf('root ::= "a" word'), "word"),
        (ebnf('x ::= "a"'), "root"),
        (ebnf('root ::= "a"\nroot ::= "b"'), "root"),
        (ebnf('root ::= (="a") "b"'), "(="),
        (ebnf('root ::= ("a"'), "("),
        (ebnf("root ::= " + "(" * 100 + '"a"' + ")" * 100), "("),
        (ebnf('root ::= a{1000}\na ::= b{1000}\nb ::= "c"'), "root"),
        (ebnf('root ::= r{99999999}\nr ::= "a" r | "b"'), "{99999999}"),
        (ebnf('root ::= "a\0"'), "NUL"),
        (ebnf('root ::= "\\U00110000"'), "\\U00110000"),
        (ebnf("root ::= [^]"), "[^]"),
        (structural({"type": "qwen_xml_parameter"}), "qwen_xml_parameter"),
        (structural({"type": "any_text", "max_tokens": 4}), "max_tokens"),
        (structural({"type": "json_schema", "json_schema": {}, "style": "glm_xml"}), "style 'glm_xml'"),
        (structural({"type": "json_schema", "json_schema": {}, "any_order": True}), "any_order"),
        (structural({"type": "sequence", "elements": [{"type": "any_text"}, DIGITS]}), "any_text"),
        (structural({"type": "token", "token": "<nope>"}), "<nope>"),
        (structural({"type": "triggered_tags", "triggers": ["<x"], "tags": [tag("<y>", DIGITS, "")]}), "<y>"),
        (structural({"type": "tags_with_separator", "tags": [], "separator": ""}), "tags"),
        (Constraint("json_schema", "[" * 100_000), "nesting"),
        (Constraint("json_schema", '{"items":' * (MAX_DEPTH + 2) + "{}" + "}" * (MAX_DEPTH + 2)), "nesting"),
        (json_schema(False), "false"),
        (json_schema({"enum": list(range(10_001))}), "enum"),
        (json_schema({"const": ["x" * 3_000]}), "const"),
        (json_schema({"properties": {"a": {"enum": ["b", "x" * 3_000]}}}), "enum"),
        (json_schema({"properties": {"x" * 3_000: {}}}), "properties"),
        (
            structural(
                {"type": "repeat", "min": 99, "max": 99, "content": {"type": "const_string", "value": "x" * 999}}
            ),
            "repeat",
        ),
        (
            structural({"type": "star", "content": {"type": "repeat", "min": 1, "max": 60_000, "content": DIGITS}}),
            "repeat",
        ),
        (ebnf('root ::= r{999}\nr ::= "<|im_start|>" "' + "x" * 99 + '"'), "root"),
        (json_schema({"allOf": [{}], "items": [{}], "additionalItems": False}), "additionalItems"),
    ],
    ids=lambda value: f"{value.kind}-{value.text[:24]}" if isinstance(value, Constraint) else "",
)
def test_refused_without_compiling(constraint: Constraint, construct: str) -> None:
    with pytest.raises(GrammarError) as caught:
        check(constraint, vocabulary().specials)
    assert caught.value.construct == construct
    assert caught.value.status == 400
    assert construct in caught.value.message or construct in ("nesting", "NUL", "false", "tags")


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json_schema", "{"),
        Constraint("json_schema", '{"const": NaN}'),
        Constraint("json_schema", '{"minimum": 1e999}'),
        Constraint("json_schema", '{"const": "\\ud800"}'),
        Constraint("json_schema", "3"),
        Constraint("json_schema", " " * (MAX_SOURCE + 1)),
        Constraint("structural_tag", "[]"),
        Constraint("structural_tag", "{}"),
        Constraint("structural_tag", '{"structures": [{}], "triggers": ["a"]}'),
        Constraint("choice", "[]"),
        Constraint("choice", '["a", 3]'),
        Constraint("regex", "a" * 10_000),
        Constraint("json_object", after="x" * 300),
    ],
    ids=lambda constraint: f"{constraint.kind}-{constraint.text[:24]}",
)
def test_malformed_or_too_large(constraint: Constraint) -> None:
    with pytest.raises(UserError):
        check(constraint)


def test_unknown_formats_ask_nothing_and_known_ones_hold() -> None:
    assert accepts(start(json_schema({"type": "integer", "format": "int64"})), "12")
    assert accepts(start(json_schema({"type": "string", "format": "date"})), '"2026-01-31"')
    assert not accepts(start(json_schema({"type": "string", "format": "date"})), '"2026-13-31"')


def test_options_of_the_library_are_not_the_requests_to_set() -> None:
    schema = {"x-guidance": {"whitespace_flexible": True, "lenient": True}, "type": "array"}
    assert not accepts(start(json_schema(schema)), "[   ]")
    with pytest.raises(GrammarError):
        start(json_schema(schema | {"uniqueItems": True}))


def test_lists_of_unique_items_only_if_they_need_not_be() -> None:
    assert accepts(start(json_schema({"type": "array", "uniqueItems": False})), "[1, 1]")
    assert accepts(start(json_schema({"type": "array", "uniqueItems": True}, strict=False)), "[1, 1]")
