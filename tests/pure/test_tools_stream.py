"""Every format, in all the pieces it can arrive in, among text, with hard arguments, and in time linear in its size."""

from __future__ import annotations

import itertools
import json

import pytest
from answers import WRITTEN, WRITTEN_CALLS, atoms, calls_of, content_of, feed, parser
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.text.tools.events import CallArguments, CallEnd, CallStart, Event, Text
from ramify.text.tools.registry import TOOL_FORMATS
from ramify.text.tools.signatures import Signatures

NAMES = sorted(WRITTEN)
formats = pytest.mark.parametrize("name", NAMES)


def test_every_format_is_written_here() -> None:
    assert {TOOL_FORMATS[name].name for name in TOOL_FORMATS} == set(WRITTEN)


@formats
def test_calls_alone(name: str) -> None:
    events = feed(parser(name), [WRITTEN[name]])
    assert calls_of(events) == WRITTEN_CALLS
    assert content_of(events) == ""


@formats
def test_one_cut_and_one_character_at_a_time(name: str) -> None:
    text = f"So: <{{[\n{WRITTEN[name]}\n\nDone."
    whole = atoms(feed(parser(name), [text]))
    assert atoms(feed(parser(name), list(text))) == whole
    for place in range(len(text)):
        assert atoms(feed(parser(name), [text[:place], text[place:]])) == whole


SHORT = {
    "hermes": 'a\n<tool_call>\n{"name": "now", "arguments": {"a": "}<\\n"}}\n</tool_call>\nb',
    "glm45": "<tool_call>now\n<arg_key>q</arg_key><arg_value>\n</arg_value>\n</arg_value></tool_call>",
    "qwen3_coder": "<function=now>\n<parameter=q>\n\n</p\n</parameter>\n</function>\nb",
    "mistral11": '[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{"a": "["} b',
    "llama3": '{"name": "now", "parameters": {}} ;{"name": "now"}\nb',
    "gemma4": '<|tool_call>call:now{a:<|"|>}<|"|>}<tool_call|>b',
    "pythonic": "a [now(), now(a=['\\x41', -1.5])] b",
}


@pytest.mark.parametrize("name", SHORT)
def test_two_cuts(name: str) -> None:
    text = SHORT[name]
    events = feed(parser(name), [text])
    whole = atoms(events)
    assert calls_of(events)
    for one, other in itertools.combinations(range(1, len(text)), 2):
        assert atoms(feed(parser(name), [text[:one], text[one:other], text[other:]])) == whole


@formats
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_pieces(name: str, data: st.DataObject) -> None:
    text = f"{data.draw(st.text(max_size=12))}\n{WRITTEN[name]}{data.draw(st.text(max_size=12))}"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert atoms(feed(parser(name), pieces)) == atoms(feed(parser(name), [text]))


@formats
def test_text_around(name: str) -> None:
    text = WRITTEN[name]
    events = feed(parser(name), [f"Before.\n\n{text}\n\nAfter. {{}} []"])
    assert calls_of(events) == WRITTEN_CALLS
    assert content_of(events) == "Before.\n\nAfter. {} []"
    between = feed(parser(name), [f"One.\n{text}\nTwo.\n{text}\nThree."])
    assert calls_of(between) == WRITTEN_CALLS * 2
    assert content_of(between) == "One.\nTwo.\nThree."


@formats
def test_space_around_calls_alone_is_nothing(name: str) -> None:
    assert content_of(feed(parser(name), [f"\n {WRITTEN[name]} \n"])) == ""


@formats
def test_an_answer_without_calls_is_text(name: str) -> None:
    text = ' Some `code`: if (a < b) { x[0] = f(1); }\n\n[link](to) {"name": "Bo"}\n{"a": [1]}\n[1, 2]\n '
    assert content_of(feed(parser(name), list(text))) == text


def test_id_and_name_come_first_and_arguments_in_pieces() -> None:
    made = parser("hermes")
    assert made.feed('Hm. <tool_call>\n{"name": "search", "arguments": {') == [Text("Hm.")]
    assert made.feed('"query": "a') == [CallStart(0, "call_0", "search", 3), CallArguments(0, '{"query": "a')]
    assert made.feed(" b\\") == [CallArguments(0, " b")]
    assert made.feed('n"}') == [CallArguments(0, '\\n"}')]
    assert made.feed("}\n</tool_call>") == [CallEnd(0, True, 67)]
    assert made.finish() == []
    assert made.calls == 1


@pytest.mark.parametrize("name", [n for n in NAMES if TOOL_FORMATS[n].shapes[0].body.kind == "json"])
def test_json_arguments_pass_through_as_they_stand(name: str) -> None:
    arguments = '{ "query":"\\u00e9\\/" ,\n"limit" : 1.0e+1, "filters": {"a":{}, "b":[ ]}}'
    text = WRITTEN[name].replace('{"query": "a}", "limit": 7}', arguments)
    events = feed(parser(name), list(text))
    assert "".join(e.json for e in events if isinstance(e, CallArguments) and e.index == 1) == arguments
    assert calls_of(events)[1][1] == json.loads(arguments)


def test_ids_that_models_give() -> None:
    def ids(name: str, text: str, **more: object) -> list[str]:
        return [event.id for event in feed(parser(name, **more), [text]) if isinstance(event, CallStart)]  # type: ignore[arg-type]

    assert ids("kimi_k2", WRITTEN["kimi_k2"]) == ["functions.now:0", "functions.search:1"]
    assert ids("mistral11", WRITTEN["mistral11"]) == ["call_0", "abcdef012"]
    assert ids("hermes", '<tool_call>{"id": "x-1", "name": "now"}</tool_call>' * 2) == ["x-1", "call_0"]
    assert ids("hermes", '<tool_call>{"id": "no good!", "name": "now"}</tool_call>') == ["call_0"]
    for made in ids("hermes", WRITTEN["hermes"], new_id=None):
        assert made.startswith("call_")
        assert len(made) == 29
    for made in ids("mistral", WRITTEN["mistral"], new_id=None):
        assert len(made) == 9
        assert made.isalnum()


def test_keys_of_a_call_in_any_order() -> None:
    texts = [
        '{"arguments": {"limit": 1}, "name": "search"}',
        '{"type": "function", "name": "search", "parameters": {"limit": 1}, "id": "a"}',
        '{"name": "search", "arguments": {"limit": 1}, "remark": [{"a": "}"}, null], "more": 1}',
        '{\n "name" : "search" ,\n "arguments" : {"limit": 1}\n}',
    ]
    for text in texts:
        events = feed(parser("hermes"), list(f"<tool_call>{text}</tool_call>"))
        assert calls_of(events) == [("search", {"limit": 1})]
        assert content_of(events) == ""


def test_no_arguments_are_an_empty_object() -> None:
    for text in ('{"name": "now"}', '{"name": "now", "arguments": null}', '{"arguments": null, "name": "now"}'):
        assert calls_of(feed(parser("hermes"), list(f"<tool_call>{text}</tool_call>"))) == [("now", {})]


def test_marks_that_models_leave_out() -> None:
    bare = '{"name": "now", "arguments": {}}'
    for name, text in [
        ("hermes", f"<tool_call>{bare}"),
        ("hermes", f"<tool_call>{bare[:-1]}</tool_call>"),
        ("qwen3_coder", "<function=now>\n</function>"),
        ("qwen3_coder", "<tool_call><function=now></function>"),
        ("mistral", f"[TOOL_CALLS][{bare}"),
        ("mistral", "[TOOL_CALLS]now{}"),
        ("llama3", bare.replace("arguments", "parameters")),
        ("llama3", f"[{bare}]"),
        ("granite", f"<tool_call>[{bare}]"),
        ("phi4", f"<|tool_call|>[{bare}]<|/tool_call|>"),
        ("deepseekv3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```"),
        ("glm45", "<tool_call>now</tool_call>"),
        ("pythonic", "<|python_start|>[now()]<|python_end|>"),
    ]:
        events = feed(parser(name), list(text))
        assert (calls_of(events), content_of(events)) == ([("now", {})], ""), text


def test_bare_json_is_a_call_only_where_a_line_begins() -> None:
    call = '{"name": "now", "parameters": {}}'
    assert calls_of(feed(parser("llama3"), [f"So:\n {call}\n"])) == [("now", {})]
    for text in (f"So: {call}", f'{{"x": {call}}}', f"`{call}`"):
        assert content_of(feed(parser("llama3"), list(text))) == text


def test_harmony_heads() -> None:
    for head in (
        "<|channel|>commentary to=functions.search <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.search<|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.search json<|message|>",
        "<|channel|>commentary to=functions.search<|message|>",
        "<|channel|>analysis to=functions.search <|constrain|>json<|message|>",
        "<|start|>assistant<|channel|>commentary to=functions.search <|constrain|>json<|message|>",
        "<|start|>assistant to=functions.search<|channel|>commentary <|constrain|>json<|message|>",
        " to=functions.search<|channel|>commentary <|constrain|>json<|message|>",
    ):
        events = feed(parser("gpt-oss", "gpt-oss"), list(f'{head}{{"limit": 1}}<|call|>'))
        assert (calls_of(events), content_of(events)) == ([("search", {"limit": 1})], ""), head
    other = "<|channel|>commentary to=browser.search<|message|>{}<|call|>"
    assert content_of(feed(parser("gpt-oss", "gpt-oss"), [other])) == other


# Work is counted in characters examined or copied.

MANY = Signatures([{"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "o": {"type": "object"}}}}])
GROWING = {
    "json string": ("hermes", '<tool_call>\n{{"name": "f", "arguments": {{"s": "{}"}}}}\n</tool_call>', "ab {}<x> "),
    "json list": ("hermes", '<tool_call>\n{{"name": "f", "arguments": {{"o": [{}1]}}}}\n</tool_call>', "1, "),
    "escapes": ("hermes", '<tool_call>\n{{"name": "f", "arguments": {{"s": "{}"}}}}\n</tool_call>', "\\n\\u00e9"),
    "arguments before the name": ("hermes", '<tool_call>{{"arguments": {{"s": "{}"}}, "name": "f"}}', "ab "),
    "and no name": ("hermes", '<tool_call>{{"arguments": {{"s": "{}"}}, "no', "ab "),
    "remarks": ("hermes", '<tool_call>{{"name": "f", "arguments": {{}}, "x": [{}0', "1,"),
    "marked string": ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=s>\n{}\n</parameter>", "ab <x>\n"),
    "marked object": ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=o>\n[{}1]\n</parameter>", "[], "),
    "marks in a value": ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=s>\n{}\n</parameter>", "</parameter>  "),
    "many pairs": ("glm45", "<tool_call>f\n{}</tool_call>", "<arg_key>s</arg_key>\n<arg_value>x</arg_value>\n"),
    "python string": ("pythonic", "[f(s='{}')]", 'a "b" '),
    "python list": ("pythonic", "[f(o=[{}])]", "{}, "),
    "gemma string": ("gemma4", '<|tool_call>call:f{{s:<|"|>{}<|"|>}}<tool_call|>', "a <|' "),
    "beginnings of calls": ("hermes", "{}", "<tool_call>x "),
    "longer beginnings of calls": ("hermes", "{}", '<tool_call>\n{"name": '),
    "beginnings with unknown names": ("kimi_k2", "{}", "<|tool_calls_section_begin|><|tool_call_begin|>functions.g:0"),
    "heads of messages": ("gpt-oss", "{}", "<|channel|>commentary to=functions.f"),
    "braces": ("llama3", "{}", "{\n"),
    "nested arguments": ("llama3", "{}", '{"arguments": [\n'),
    "objects": ("llama3", "{}", '{"name": "g"},\n'),
    "lists of calls": ("mistral", "[TOOL_CALLS] [{}", '{"name": "f", "arguments": {}}, '),
    "space": ("hermes", "<tool_call>{}x", " "),
    "space before calls": ("hermes", "{}<tool_call>", "\n"),
    "text": ("hermes", "{}", "ab <t "),
}


@pytest.mark.parametrize("step", [1, 7, 10**9])
@pytest.mark.parametrize("kind", GROWING)
def test_work_is_linear_in_the_text(kind: str, step: int) -> None:
    name, frame, unit = GROWING[kind]

    def work(size: int) -> float:
        text = frame.format(unit * (size // len(unit)))
        made = parser(name, signatures=MANY)
        feed(made, [text[place : place + step] for place in range(0, len(text), step)])
        return made.looked / len(text)

    small, big = work(1500), work(9000)
    assert big < 1.2 * small + 1
    assert big < 60


def test_a_megabyte_of_arguments() -> None:
    value = 'x"\n\\{' * 200_000
    for name, text in (
        ("hermes", f'<tool_call>{{"name": "f", "arguments": {{"s": {json.dumps(value)}}}}}</tool_call>'),
        ("glm45", f"<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"),
    ):
        pieces = [text[place : place + 256] for place in range(0, len(text), 256)]
        made = parser(name, signatures=MANY)
        events: list[Event] = feed(made, pieces)
        assert calls_of(events) == [("f", {"s": value})]
        assert made.looked < 4 * len(text)
