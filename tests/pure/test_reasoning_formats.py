"""Reasoning is told from the answer in every format, as it arrives, and its tokens are counted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from answers import WRITTEN, WRITTEN_CALLS, atoms, calls_of, content_of, feed, parser, reasoning_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.text.reasoning.registry import REASONING_FORMATS
from ramify.text.tools.events import Reasoning, Text
from ramify.text.tools.whole import Block, parse

NAMES = sorted({REASONING_FORMATS[name].name for name in REASONING_FORMATS})
formats = pytest.mark.parametrize("name", NAMES)
THOUGHT = "Let me think.\n\nIf a < b, then {x}."
ANSWER = "It is <42>.\n\nOr so."


def answer(name: str, opened: bool = False) -> str:
    """As a model writes it, with its marks."""
    found = REASONING_FORMATS[name]
    begin = "" if opened else found.begin[0].rstrip() + "\n"
    body = f"{begin}{THOUGHT}\n{found.end[0]}"
    if name == "gpt-oss":
        return f"{body}<|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>"
    if found.frame:
        return f"{body}{found.frame[0]}{ANSWER}{found.frame[1] if len(found.frame) > 1 else ''}"
    return f"{body}\n\n{ANSWER}"


@formats
@pytest.mark.parametrize("opened", [False, True])
def test_reasoning_and_answer(name: str, opened: bool) -> None:
    text = answer(name, opened)
    events = feed(parser(reasoning=name, opened=opened), [text])
    assert reasoning_of(events) == THOUGHT
    assert content_of(events) == ANSWER
    assert atoms(feed(parser(reasoning=name, opened=opened), list(text))) == atoms(events)
    for place in range(len(text)):
        cut = feed(parser(reasoning=name, opened=opened), [text[:place], text[place:]])
        assert atoms(cut) == atoms(events)


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_two_cuts(name: str) -> None:
    text = answer(name)
    whole = atoms(feed(parser(reasoning=name), [text]))
    for one, other in itertools.combinations(range(1, len(text)), 2):
        assert atoms(feed(parser(reasoning=name), [text[:one], text[one:other], text[other:]])) == whole


@formats
def test_no_beginning_says_what_the_whole_does_not(name: str) -> None:
    text = answer(name)
    whole = atoms(feed(parser(reasoning=name), [text]))
    made, said = parser(reasoning=name), 0
    for character in text:
        new = atoms(made.feed(character))
        assert new == whole[said : said + len(new)]
        said += len(new)


@formats
def test_a_model_that_says_the_mark_again(name: str) -> None:
    events = feed(parser(reasoning=name, opened=True), list("\n" + answer(name)))
    assert (reasoning_of(events), content_of(events)) == (THOUGHT, ANSWER)


@formats
def test_cut_in_the_reasoning(name: str) -> None:
    found = REASONING_FORMATS[name]
    events = feed(parser(reasoning=name), [f"{found.begin[0]}\n{THOUGHT} \n"])
    assert (reasoning_of(events), content_of(events)) == (THOUGHT + " \n", "")
    held = feed(parser(reasoning=name, stream_reasoning=False), [f"{found.begin[0]}\n{THOUGHT} \n"])
    assert held == [Reasoning(THOUGHT + " \n")]


@formats
def test_no_reasoning(name: str) -> None:
    text = f" \n{ANSWER} \n"
    assert content_of(feed(parser(reasoning=name), [text])) == text
    assert content_of(feed(parser(reasoning=name), list(text))) == text


@formats
def test_empty_reasoning(name: str) -> None:
    found = REASONING_FORMATS[name]
    events = feed(parser(reasoning=name), list(f"{found.begin[0].rstrip()}\n\n{found.end[0]}\n\nHi"))
    assert (reasoning_of(events), content_of(events)) == ("", "Hi")


@formats
def test_not_separated_it_stays_where_it_is(name: str) -> None:
    for opened in (False, True):
        text = answer(name, opened)
        events = feed(parser(reasoning=name, opened=opened, separate=False), list(text))
        assert (reasoning_of(events), content_of(events)) == ("", text)


@formats
def test_not_streamed_it_comes_in_one_piece(name: str) -> None:
    made = parser(reasoning=name, stream_reasoning=False)
    seen = [made.feed(character) for character in answer(name)] + [made.finish()]
    events = [event for new in seen for event in new]
    assert [event for event in events if isinstance(event, Reasoning)] == [Reasoning(THOUGHT)]
    assert content_of(events) == ANSWER
    assert sum(isinstance(event, Text) for event in events) > 5


def test_a_mark_in_the_answer_is_text() -> None:
    for text in ("Use <think> and </think>.", "a </think> b", "<thinking>no</thinking>"):
        assert content_of(feed(parser(reasoning="qwen3"), list(text))) == text
    events = feed(parser(reasoning="qwen3"), list("<think>a <think> b</think>c <think>d</think>"))
    assert (reasoning_of(events), content_of(events)) == ("a <think> b", "c <think>d</think>")


def test_harmony_channels() -> None:
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary<|message|>Plan:<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}<|return|>"
    )
    message = parse(text, parser("gpt-oss", "gpt-oss"))
    assert message.blocks == [
        Block("reasoning", "One."),
        Block("text", "Plan:"),
        Block("reasoning", "Two."),
        Block("text", "{}"),
    ]
    assert (message.reasoning, message.content) == ("One.Two.", "Plan:{}")


@pytest.mark.parametrize(
    ("name", "prompt", "opened"),
    [
        ("qwen3", "<|im_start|>assistant\n", False),
        ("qwen3", "<|im_start|>assistant\n<think>\n", True),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("qwen3", "What is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("qwen3-thinking", "<|im_start|>assistant\n", True),
        ("deepseek-r1", "<｜Assistant｜>", True),
        ("deepseek-r1", "<｜Assistant｜><think>\n", True),
        ("deepseek-v3", "<｜Assistant｜></think>", False),
        ("apriel", "<|begin_assistant|>\nHere are my reasoning steps:\n", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", False),
        ("gemma4", "<|turn>model\n<|channel>thought\n", True),
        ("cohere_command4", "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>", False),
    ],
)
def test_what_the_prompt_opens(name: str, prompt: str, opened: bool) -> None:
    assert REASONING_FORMATS[name].open_after(prompt) is opened


@formats
def test_an_answer_to_continue(name: str) -> None:
    found = REASONING_FORMATS[name]
    assert found.inside(f"{found.begin[0]} Let me")
    assert not found.inside("Let me")
    assert not found.inside(f"{found.begin[0]} Let me {found.end[0]} say")


# With tools


WITH_CALLS = [
    ("hermes", "qwen3"),
    ("qwen3_coder", "nemotron_3"),
    ("glm45", "glm45"),
    ("kimi_k2", "kimi_k2"),
    ("deepseekv31", "deepseek-v3"),
    ("deepseekv3", "deepseek-r1"),
    ("mistral11", "mistral"),
    ("gpt-oss", "gpt-oss"),
    ("gemma4", "gemma4"),
    ("granite", "granite"),
    ("cohere_command4", "cohere_command4"),
    ("minimax-m2", "minimax"),
    ("step3", "step3"),
    ("seed_oss", "seed_oss"),
    ("apertus2509", "apertus2509"),
    ("llama3", "qwen3"),
    ("pythonic", "qwen3"),
]
pairs = pytest.mark.parametrize(("tools", "name"), WITH_CALLS)


@pairs
def test_reasoning_text_and_calls(tools: str, name: str) -> None:
    text = f"{answer(name)}\n{WRITTEN[tools]}"
    events = feed(parser(tools, name), [text])
    assert (reasoning_of(events), content_of(events)) == (THOUGHT, ANSWER)
    assert calls_of(events) == WRITTEN_CALLS
    assert atoms(feed(parser(tools, name), list(text))) == atoms(events)


@pairs
def test_calls_in_reasoning_are_thoughts(tools: str, name: str) -> None:
    """But for those formats in which a call ends reasoning that was not ended."""
    found = REASONING_FORMATS[name]
    text = f"{found.begin[0]}\nI could {WRITTEN[tools]}"
    events = feed(parser(tools, name), [f"{text}\n{found.end[0]}Hm."])
    if any(mark in WRITTEN[tools] for mark in found.cut):
        assert reasoning_of(events) == "I could"
        assert (calls_of(events), content_of(events)) == (WRITTEN_CALLS, "Hm.")
        message = parse(f"{text} And so on", parser(tools, name))
        assert (message.reasoning, message.content.strip()) == ("I could", "And so on")
        no_tools = feed(parser(None, name), [f"{text}\n{found.end[0]}Hm."])
        assert (reasoning_of(no_tools), content_of(no_tools)) == (f"I could {WRITTEN[tools]}", "Hm.")
    elif name != "gpt-oss":
        assert reasoning_of(events) == f"I could {WRITTEN[tools]}"
        assert (calls_of(events), content_of(events)) == ([], "Hm.")


def test_only_a_whole_call_of_a_known_tool_ends_reasoning() -> None:
    for inside in ("<tool_call>", "<tool_call>\n{", '<tool_call>{"name": "rummage", "arguments": {}}</tool_call>'):
        events = feed(parser("hermes", "qwen3"), list(f"<think>Should I {inside}?</think>No."))
        assert (reasoning_of(events), content_of(events)) == (f"Should I {inside}?", "No.")


def test_calls_outside_reasoning_that_is_not_separated() -> None:
    text = f"<think>\nHm {{\n</think>\n\n{WRITTEN['hermes']}"
    events = feed(parser("hermes", "qwen3", separate=False), list(text))
    assert content_of(events) == "<think>\nHm {\n</think>"
    assert calls_of(events) == WRITTEN_CALLS


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(WITH_CALLS),
    st.lists(
        st.sampled_from(["<think>", "</think>", "\n", " ", "x", "call", "<", "end", "{", "[", "\n\n"]), max_size=12
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_mixture_in_any_pieces(formats: tuple[str, str], parts: list[str], opened: bool, separate: bool) -> None:
    tools, name = formats
    marks = {
        "<think>": REASONING_FORMATS[name].begin[0],
        "</think>": REASONING_FORMATS[name].end[0],
        "call": WRITTEN[tools],
    }
    text = "".join(marks.get(part, part) for part in parts)
    more: dict[str, Any] = {"opened": opened, "separate": separate}
    whole = feed(parser(tools, name, **more), [text])
    assert atoms(feed(parser(tools, name, **more), list(text))) == atoms(whole)
    if not separate and not calls_of(whole):
        assert content_of(whole) == text


# Counting


def count(pieces: list[tuple[str, int]], **more: Any) -> list[int]:
    made, found = parser("hermes", "qwen3", **more), []
    for text, tokens in pieces:
        made.feed(text, tokens)
        found.append(made.reasoning_tokens)
    made.finish()
    return [*found, made.reasoning_tokens]


def test_tokens_of_reasoning_with_its_marks() -> None:
    pieces = [
        ("<think>", 1),
        ("\n", 1),
        ("a b", 1),
        ("", 1),
        ("é", 1),
        ("</think>", 1),
        ("\n\n", 1),
        ("x", 1),
        ("y", 1),
    ]
    assert count(pieces) == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6]
    assert count(pieces[1:], opened=True) == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert count(pieces, separate=False)[-1] == 6
    assert count(pieces, stream_reasoning=False)[-1] == 6


def test_tokens_in_pieces_of_several() -> None:
    assert count([("<think>aaaa", 3), ("bbb</think>cc", 3)])[-1] == 6 - round(3 * 2 / 13)
    assert count([("<think>aaa</think>", 6), ("text", 4)])[-1] == 6
    assert count([("<thi", 1), ("nk>a</thi", 3), ("nk>", 1), ("text", 4)])[-1] == 5


def test_tokens_without_reasoning_or_without_counts() -> None:
    assert count([("just ", 1), ("text", 1)])[-1] == 0
    assert count([("<think>a</think>b", 0)])[-1] == 0
    assert count([("<think>a b", 4)])[-1] == 4


def test_a_call_ends_what_is_counted() -> None:
    call = '<tool_call>{"name": "now"}</tool_call>'
    assert count([("<think>", 1), ("hm", 1), (call, 7), (" so", 1)])[-1] == 2
