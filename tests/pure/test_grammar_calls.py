"""Grammars of tool calls say what the parser of the same format reads, whatever the format."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from grammars import SHORT, accepts, admitted, ends, start, text_of, vocabulary

from ramify.grammar import calls
from ramify.grammar.calls import Callable
from ramify.grammar.constraint import Constraint, choice
from ramify.grammar.matcher import Matcher
from ramify.grammar.style import FIXED
from ramify.text.reasoning.registry import REASONING_FORMATS
from ramify.text.tools.parser import Formats, Parser
from ramify.text.tools.registry import TOOL_FORMATS
from ramify.text.tools.signatures import Signatures
from ramify.text.tools.whole import Message, parse

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "San Jose"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 20},
        "deep": {"type": "object", "properties": {"x": {"type": "boolean"}}, "additionalProperties": False},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FLAG = {
    "type": "object",
    "properties": {"on": {"type": ["boolean", "null"]}},
    "required": ["on"],
    "additionalProperties": False,
}
NOTE = {"type": "object", "properties": {"text": {"type": "string"}, "n": {"$ref": "#/$defs/count"}}}
NOTE |= {"required": ["text"], "additionalProperties": False, "$defs": {"count": {"type": "integer"}}}
SCHEMAS = {"weather": WEATHER, "flag": FLAG}
TWO = [Callable(name, schema) for name, schema in SCHEMAS.items()]
TOOLS = [{"name": name, "parameters": schema} for name, schema in SCHEMAS.items()]

NAMES = list({TOOL_FORMATS[name].name: name for name in TOOL_FORMATS}.values())  # one of each
HELD = [name for name in NAMES if calls.can_hold(TOOL_FORMATS[name])]
TRIGGERED = [name for name in HELD if calls.can_trigger(TOOL_FORMATS[name])]
MARKED = [name for name in HELD if TOOL_FORMATS[name].frame("f").kind == "pairs"]


def walk(matcher: Matcher, seed: int, most: int = 400) -> str | None:
    """A random output; None if it does not come to an end."""
    rng, taken = random.Random(seed), []
    for _ in range(most):
        if matcher.finished or (matcher.can_stop and rng.random() < 0.5):
            return text_of(taken)
        taken.append(rng.choice([token for token in admitted(matcher) if token not in vocabulary().eos]))
        matcher.accept(taken[-1])
    return None


def read(name: str, text: str, tools: list[dict[str, Any]] = TOOLS) -> Message:
    return parse(text, Parser(Formats(TOOL_FORMATS[name]), Signatures(tools)))


def test_which_formats_can_be_held() -> None:
    assert len(HELD) > 20
    assert set(NAMES) - set(HELD) == {"functiongemma", "gemma3", "gemma4", "lfm2", "pythonic"}
    assert set(HELD) - set(TRIGGERED) == {"json", "llama3"}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", HELD)
def test_what_the_grammar_says_the_parser_reads(name: str, parallel: bool) -> None:
    matcher = start(calls.constraint(calls.only_calls(TOOL_FORMATS[name], TWO, parallel=parallel), strict=True), SHORT)
    said = [text for seed in range(10) if (text := walk(matcher.clone(), seed)) is not None]
    assert len(said) >= 3
    for text in said:
        message = read(name, text)
        assert message.content == "", text
        assert len(message.calls) == 1 or (message.calls and parallel)
        for call in message.calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("name", TRIGGERED)
def test_calls_in_free_text(name: str) -> None:
    tools = TOOL_FORMATS[name]
    frame = tools.frame("flag")
    call = walk(start(calls.constraint(calls.only_calls(tools, TWO[1:], parallel=False), strict=True), SHORT), 1)
    assert call is not None
    free = start(calls.constraint(calls.text_with_calls(tools, TWO, parallel=True), strict=True))
    for text in ("", "Hello, 1 < 2.", call, f"I look.\n{call}", f"a {call} b {call}"):
        assert accepts(free, text), text
    for text in (frame.trigger, call[: len(call) // 2], call.replace("flag", "flog")):
        assert not accepts(free, text), text
    once = start(calls.constraint(calls.text_with_calls(tools, TWO, parallel=False), strict=True))
    assert accepts(once, "no call")
    assert accepts(once, f"so: {call}")
    assert not accepts(once, f"{call}\n{call}")


@pytest.mark.parametrize("name", MARKED)
def test_texts_between_marks(name: str) -> None:
    """Text is free up to its end mark; a reference is followed; what is optional may be left out."""
    tools = TOOL_FORMATS[name]
    frame = tools.frame("note")
    body = frame.body
    assert isinstance(body, calls.Pairs)
    line = "\n" if body.newlines else ""

    def pair(key: str, value: str, is_text: bool) -> str:
        flag = f"{body.flag}{str(is_text).lower()}" if body.flag else ""
        return f"{body.open}{key}{flag}{body.between}{line}{value}{line}{body.end}\n"

    matcher = start(
        calls.constraint(calls.only_calls(tools, [Callable("note", NOTE)], parallel=False), strict=True), SHORT
    )
    text, number = pair("text", 'two\nlines, <b> and "quotes"', True), pair("n", "3", False)
    for inside, arguments in ((text, {}), (text + number, {"n": 3})):
        whole = frame.begin + frame.before + inside + frame.after + frame.end
        assert accepts(matcher, whole)
        (call,) = read(name, whole, [{"name": "note", "parameters": NOTE}]).calls
        assert json.loads(call.arguments) == {"text": 'two\nlines, <b> and "quotes"'} | arguments
    for inside in ("", number, text + pair("n", "three", False), text + pair("other", "1", False)):
        assert not accepts(matcher, frame.begin + frame.before + inside + frame.after + frame.end)


CALL_A = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 1}}\n</tool_call>'
CALL_B = '<tool_call>\n{"name": "flag", "arguments": {"on": null}}\n</tool_call>'
HERMES = TOOL_FORMATS["hermes"]


def test_required_calls() -> None:
    matcher = start(calls.constraint(calls.only_calls(HERMES, TWO, parallel=True), strict=True))
    assert text_of(matcher.forced()) == '<tool_call>\n{"name": "'
    for text in (CALL_A, f"{CALL_A}\n{CALL_B}"):
        assert accepts(matcher, text)
    for text in ("", "Hello", f"Hello {CALL_A}", f"{CALL_A}\n"):
        assert not accepts(matcher, text), text


def test_the_named_call_begins_at_once_and_is_the_only_one() -> None:
    constraint = calls.constraint(calls.only_calls(HERMES, TWO[:1], parallel=False), strict=True)
    matcher = start(constraint, FIXED)
    assert text_of(matcher.forced()).startswith('<tool_call>\n{"name": "weather", "arguments": {"city":')
    assert not accepts(matcher, f"{CALL_A}\n{CALL_A}")
    assert ends(start(constraint), CALL_A)


def test_any_object_where_there_is_no_schema() -> None:
    matcher = start(calls.constraint(calls.only_calls(HERMES, [Callable("flag")], parallel=False), strict=True))
    assert accepts(matcher, CALL_B)
    assert not accepts(matcher, CALL_B.replace('{"on": null}', "null"))


def test_a_call_or_an_answer_of_some_shape() -> None:
    answer = calls.as_format(Constraint("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}'))
    assert answer is not None
    matcher = start(calls.constraint(calls.either(calls.only_calls(HERMES, TWO, parallel=True), answer), strict=True))
    for text in (CALL_A, f"{CALL_A}\n{CALL_B}", '{"a": 1}'):
        assert accepts(matcher, text), text
    for text in ("", "no", '{"a": "b"}', CALL_A + '{"a": 1}'):
        assert not accepts(matcher, text), text


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (Constraint("json_object"), '{"x": []}', "[]"),
        (Constraint("regex", "[ab]+"), "abba", "c"),
        (Constraint("ebnf", 'root ::= "x" root?'), "xxx", "y"),
        (choice(["yes", "no"]), "yes", "maybe"),
        (calls.constraint(calls.only_calls(HERMES, TWO, parallel=True), strict=True), CALL_A, "no call"),
    ],
    ids=lambda value: value.kind if isinstance(value, Constraint) else "",
)
def test_thinking_may_come_first(constraint: Constraint, good: str, bad: str) -> None:
    format = calls.as_format(constraint)
    assert format is not None
    matcher = start(calls.constraint(calls.with_thinking(format, REASONING_FORMATS["qwen3"]), strict=True))
    for text in (good, f"<think>\nhm, {bad}?\n</think>\n\n{good}", f"<think></think>{good}"):
        assert accepts(matcher, text), text
    for text in (bad, f"<think>{good}", f"<think>{good}</think>", f"<think>x</think>{bad}", f"x</think>{good}"):
        assert not accepts(matcher, text), text


def test_an_answer_below_a_head() -> None:
    harmony = REASONING_FORMATS["gpt-oss"]
    format = calls.as_format(Constraint("json_object"))
    assert format is not None
    whole = calls.with_thinking(calls.headed(format, harmony), harmony)
    matcher = start(calls.constraint(whole, strict=True))
    thought = "<|channel|>analysis<|message|>Well.<|end|><|start|>assistant"
    assert accepts(matcher, '<|channel|>final<|message|>{"a": 1}')
    assert accepts(matcher, thought + '<|channel|>final<|message|>{"a": 1}')
    assert not accepts(matcher, thought + '{"a": 1}')
    message = parse(thought + '<|channel|>final<|message|>{"a": 1}', Parser(Formats(reasoning=harmony)))
    assert (message.reasoning, message.content) == ("Well.", '{"a": 1}')
