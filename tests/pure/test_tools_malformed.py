"""What is no call, or is not finished, comes back as text: nothing raises, nothing is lost, nothing is made up."""

from __future__ import annotations

import json
import random
import re

import pytest
from answers import QUERY, WRITTEN, WRITTEN_CALLS, atoms, calls_of, content_of, feed, parser
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.text.tools.events import CallArguments, CallEnd, CallStart, Event
from ramify.text.tools.registry import TOOL_FORMATS
from ramify.text.tools.signatures import Signatures
from ramify.text.tools.values import MAX_DEPTH
from ramify.text.tools.whole import Message, assemble, parse

NAMES = sorted(WRITTEN)
formats = pytest.mark.parametrize("name", NAMES)


def read(message: Message) -> list[tuple[str, dict[str, object]]]:
    return [(call.name, json.loads(call.arguments)) for call in message.calls]


@formats
def test_cut_anywhere_all_text_comes_back(name: str) -> None:
    text = "So:\n" + WRITTEN[name]
    for place in range(len(text)):
        message = parse(text[:place], parser(name))
        assert read(message) == WRITTEN_CALLS[: len(message.calls)]
        if message.calls:
            assert text[:place].endswith(message.content.removeprefix("So:"))
        else:
            assert message.content == text[:place]


@formats
def test_a_call_that_the_length_cut_is_kept_as_far_as_it_goes(name: str) -> None:
    """Its arguments never read as whole ones. Those that pass through are a beginning of them; of the others the last
    characters may be a mark that was cut.
    """
    text, passes_through = WRITTEN[name], TOOL_FORMATS[name].shapes[0].body.kind == "json"
    whole = [call.arguments for call in parse(text, parser(name)).calls]
    partial = 0
    for place in range(len(text)):
        message = parse(text[:place], parser(name), cut=True)
        for number, call in enumerate(message.calls):
            if call.arguments != whole[number]:
                partial += 1
                assert whole[number].startswith(call.arguments) or not passes_through
                with pytest.raises(ValueError):
                    json.loads(call.arguments)
    assert partial


@formats
def test_unknown_tools_are_text(name: str) -> None:
    text = "So:\n" + WRITTEN[name].replace("search", "rummage").replace("now", "later")
    assert content_of(feed(parser(name), list(text))) == text
    assert content_of(feed(parser(name, signatures=Signatures([])), list(text))) == text
    known = feed(parser(name, signatures=Signatures(None)), list(text))
    assert [called for called, _ in calls_of(known)] == ["later", "rummage"]


@formats
def test_one_unknown_tool_among_calls(name: str) -> None:
    events = feed(parser(name), list(WRITTEN[name].replace("now", "later")))
    assert "later" in content_of(events)
    begun = [event.name for event in events if isinstance(event, CallStart)]
    assert set(begun) <= {"search"}


def check(name: str, text: str) -> None:
    """What holds of every text."""
    events = feed(parser(name), [text])
    assert atoms(feed(parser(name), list(text))) == atoms(events)
    for called, arguments in calls_of(events):
        assert called in ("search", "now")
        assert isinstance(arguments, dict)
    if not any(isinstance(event, CallStart) for event in events):
        assert content_of(events) == text
    message = assemble(text, events)
    assert read(message) == calls_of(events)
    said = content_of(events)
    assert message.content == said or any(isinstance(event, CallEnd) and not event.complete for event in events)


@formats
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_changed_text(name: str, data: st.DataObject) -> None:
    text = WRITTEN[name]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        gone = data.draw(st.sampled_from([0, 1, 1, 2, 10]))
        put = data.draw(
            st.sampled_from(["", "", '"', "{", "}", "[", "]", "<", ">", ",", ":", "\\", "\n", "x", "=", "("])
        )
        text = text[:place] + put + text[place + gone :] or "x"
    check(name, text)


@formats
def test_shuffled_pieces(name: str) -> None:
    rnd = random.Random(name)
    pieces = [piece for piece in re.split(r"(<[^>]*>|[{}\[\],:\"=()]|\s+)", WRITTEN[name]) if piece]
    for _ in range(30):
        check(name, "".join(rnd.choices(pieces, k=rnd.randrange(1, 25))))


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "search", "arguments": "a"}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": [1]}\n</tool_call>',
        "<tool_call>\n{'name': 'search', 'arguments': {}}\n</tool_call>",
        '<tool_call>\n{"name": "search", "arguments": {\'query\': 1}}\n</tool_call>',
        '<tool_call>\n{"name": 7, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"arguments": {"query": "a"}}\n</tool_call>',
        '<tool_call>\n{"thought": "hm", "name": "search", "arguments": {}}\n</tool_call>',
        "<tool_call>\nsearch\n</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>{}</tool_call>",
        "</tool_call>",
        '{"name": "search", "arguments": {}}',
        f'<tool_call>{{"name": "{"x" * 400}"',
        f'<tool_call>{{"type": "{"x" * 400}"',
    ],
)
def test_no_call_at_all(text: str) -> None:
    assert content_of(feed(parser("hermes"), list(text))) == text


def test_arguments_that_go_wrong_after_they_were_announced() -> None:
    text = 'Hm. <tool_call>\n{"name": "search", "arguments": {"query": "a" "limit": 1}}\n</tool_call> Well.'
    events = feed(parser("hermes"), list(text))
    assert calls_of(events) == []
    assert [e.complete for e in events if isinstance(e, CallEnd)] == [False]
    assert "".join(e.json for e in events if isinstance(e, CallArguments)) == '{"query": "a" '
    assert content_of(events) == 'Hm."limit": 1}}\n</tool_call> Well.'
    for cut in (False, True):
        message = assemble(text, events, cut)
        assert message.calls == []
        assert message.content == text


def test_a_good_call_after_a_bad_one() -> None:
    good = '<tool_call>{"name": "now"}</tool_call>'
    for bad in ("<tool_call>", '<tool_call>{"name": "', '<tool_call>{"name": "search", "arguments": {"a": <'):
        message = parse(bad + good, parser("hermes"))
        assert [call.name for call in message.calls] == ["now"]
        assert message.content == bad


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("hermes", '<tool_call>{{"name": "search", "arguments": {{"filters": {}}}}}</tool_call>'),
        ("pythonic", "[search(filters={})]"),
        ("gemma4", "<|tool_call>call:search{{filters:{}}}<tool_call|>"),
        ("glm45", "<tool_call>search\n<arg_key>filters</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"),
    ],
)
def test_depth_has_a_limit(name: str, frame: str) -> None:
    shallow = MAX_DEPTH - 1
    assert len(calls_of(feed(parser(name), [frame.format("[" * shallow + "]" * shallow)]))) == 1
    for depth in (MAX_DEPTH + 1, 20_000):
        message = parse(frame.format("[" * depth + "]" * depth), parser(name))
        if name == "glm45":  # a text that cannot be read as a value is a string
            assert json.loads(message.calls[0].arguments) == {"filters": "[" * depth + "]" * depth}
        else:
            assert message.calls == []
            assert message.content == frame.format("[" * depth + "]" * depth)


def test_numbers_have_a_limit() -> None:
    for digits, calls in ((1000, 1), (2000, 0)):
        text = f'<tool_call>{{"name": "search", "arguments": {{"limit": {"7" * digits}}}}}</tool_call>'
        assert len(calls_of(feed(parser("hermes"), list(text)))) == calls


@formats
@pytest.mark.parametrize("word", ["qzx", "}qzx", "'qzx", "<qzx"])
def test_a_stream_loses_no_word(name: str, word: str) -> None:
    """Put anywhere into a call, a word is in the content, a name or the arguments, whatever becomes of the call."""
    if name in ("mirothinker", "cohere_command4"):
        pytest.skip("a part of its calls, the server's name or a number, is of no consequence")
    text = WRITTEN[name]
    for place in range(len(text) + 1):
        broken = text[:place] + word + text[place:]
        for size in (1, len(broken)):
            events = feed(parser(name), [broken[at : at + size] for at in range(0, len(broken), size)])
            said = content_of(events) + "".join(
                event.json if isinstance(event, CallArguments) else event.name + event.id
                for event in events
                if isinstance(event, CallArguments | CallStart)
            )
            assert "qzx" in said, broken


def test_events_before_the_end_stay_in_order() -> None:
    """A parser that is never finished has said a beginning of what it would have."""
    text = WRITTEN["hermes"].replace(QUERY, '{"query": "a')
    made = parser("hermes")
    events: list[Event] = [event for character in text for event in made.feed(character)]
    assert atoms(events) == atoms(feed(parser("hermes"), [text]))[: len(atoms(events))]
