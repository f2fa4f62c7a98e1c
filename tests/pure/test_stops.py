"""Stop strings and regexes: found at the character that completes them, and never said too early."""

from __future__ import annotations

import random
import re

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.core.errors import BadRequest
from ramify.core.finish import Finish
from ramify.core.params import SamplingParams
from ramify.text.stops import Stops
from ramify.text.stream import TextStream


class Letters:
    """A detokenizer whose tokens are texts."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def step(self, token: int) -> str:
        return self.texts[token]

    def flush(self) -> str:
        return ""


def stream(texts: list[str], **params: object) -> TextStream:
    return TextStream(SamplingParams(**params), Letters(texts))  # type: ignore[arg-type]


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """By brute force: the stop that completes first, the longest of several that complete together."""
    found = [(text.find(s, max(0, e - len(s)), e) + len(s), -len(s), s) for s in stops for e in range(len(text) + 1)]
    ends = [(end, negative, s) for end, negative, s in found if end >= len(s)]
    if not ends:
        return None
    end, _, matched = min(ends)
    return end - len(matched), matched


@settings(max_examples=400, deadline=None)
@given(
    text=st.text("ab", max_size=40),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_strings_against_brute_force_in_any_chunking(text: str, stops: list[str], seed: int) -> None:
    rnd = random.Random(seed)
    watcher, said, at, hit = Stops(stops, []), "", 0, None
    while at < len(text) and hit is None:
        step = rnd.randrange(1, 4)
        before = watcher.safe
        hit = watcher.feed(text[at : at + step])
        said += watcher.text[before : watcher.safe if hit is None else hit.start]
        at += step
    expected = first_stop(text, stops)
    if expected is None:
        assert hit is None
        assert text.startswith(said)
        assert not any(text[len(said) :] == s for s in stops)
    else:
        assert hit is not None
        assert (hit.start, hit.matched) == expected
        assert said == text[: expected[0]]


def test_what_may_become_a_stop_is_held_back() -> None:
    watcher = Stops(["<end>"], [])
    watcher.feed("abc <en")
    assert watcher.text[: watcher.safe] == "abc "
    watcher.feed("x")
    assert watcher.safe == 8


@pytest.mark.parametrize(
    ("pattern", "texts", "said", "matched"),
    [
        (r"\d\d\d", ["a1", "2b", "34", "5c"], "a12b", "345"),
        (r"END|STOP", ["the E", "N", "D x"], "the ", "END"),
        (r"\n\n+", ["one\n", "\ntwo"], "one", "\n\n"),
        (r"x+y", ["ax", "xx", "y!"], "a", "xxxy"),
    ],
)
def test_regexes(pattern: str, texts: list[str], said: str, matched: str) -> None:
    out = stream(texts, stop_regex=pattern)
    for token in range(len(texts)):
        out.feed([token], None)
        if out.finish:
            break
    assert out.finish == Finish.stop(matched)
    assert out.text == said


PIECES = [
    "a",
    "b",
    "é",
    r"\b",
    r"\B",
    "^",
    "$",
    "(?m:^)",
    "(?m:$)",
    r"\A",
    r"\z",
    " ",
    r"\n",
    r"\w",
    ".",
    "[^a]",
    "[[:alpha:]|x]",
]
REPEATS = ["", "", "", "?", "*", "+", "{2}", "{1,3}"]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Short patterns with much that looks around, some of which match nothing but the empty string."""
    parts = [draw(st.sampled_from(PIECES)) + draw(st.sampled_from(REPEATS)) for _ in range(draw(st.integers(1, 5)))]
    return "".join(parts) + (f"|{draw(st.sampled_from(PIECES))}" if draw(st.booleans()) else "")


@settings(max_examples=1500, deadline=None)
@given(
    patterns=st.lists(patterns(), min_size=1, max_size=3),
    tokens=st.lists(st.text("ab é\n|x", max_size=4), max_size=12),
)
def test_regexes_against_a_search_of_the_whole_text_at_every_token(patterns: list[str], tokens: list[str]) -> None:
    try:
        watcher = Stops([], patterns)
    except BadRequest:
        return
    compiled, text, said = [re2.compile(pattern) for pattern in patterns], "", ""
    for token in tokens:
        text, before = text + token, watcher.safe
        hit = watcher.feed(token)
        found = [match for pattern in compiled if (match := pattern.search(text))]
        assert (hit is None) == (not found)
        if hit is not None:
            assert hit.start == min(match.start() for match in found)
            assert (hit.start, hit.end, hit.matched) in {(m.start(), m.end(), m.group()) for m in found}
            # Python, which is asked for the width, knows no repeated \b: such patterns count as unbounded.
            endless = r"[*+]|\[\[:|\\z|\\[bB][?{]"
            assert len(said) <= hit.start or any(re.search(endless, pattern) for pattern in patterns)
            return
        said += watcher.text[before : watcher.safe]
    assert text.startswith(said)


@pytest.mark.parametrize("width", [2, 300])
def test_the_edge_of_what_is_searched_is_not_the_edge_of_the_text(width: int) -> None:
    for pattern, text in ((rf"\bx{{1,{width}}}!", "ax!"), (rf"^x{{1,{width}}}!", "ax!"), (r"\A\n", "a\n")):
        for filler in ("", "a " * width):
            watcher = Stops([], [pattern])
            assert all(watcher.feed(character) is None for character in filler + text), pattern


@pytest.mark.parametrize(
    ("pattern", "texts", "said"),
    [
        ("a*", ["bc"], ""),
        (r"\B", ["a", "bc"], "a"),
        ("(?m)^$", ["one\n", "two\n\n", "x"], "one\n"),
        ("x{0}$", ["y"], "y"),
    ],
)
def test_an_empty_match_is_a_match(pattern: str, texts: list[str], said: str) -> None:
    out = stream(texts, stop_regex=pattern)
    for token in range(len(texts)):
        out.feed([token], None)
        if out.finish:
            break
    assert out.finish is not None
    assert isinstance(out.finish.matched, str)
    assert out.text == said


@pytest.mark.parametrize("pattern", ["z{9}[[:alpha:]|x]z{9}", "a{,2}bc"])
def test_what_python_reads_differently_is_searched_everywhere(pattern: str) -> None:
    text = {"z": "z" * 9 + "q" + "z" * 9, "a": "a{,2}bc"}[pattern[0]]
    watcher = Stops([], [pattern])
    assert any(watcher.feed(character) for character in text)


@pytest.mark.parametrize("pattern", ["(", "[z-a]", r"(a)\1", "(?=x)"])
def test_a_regex_that_re2_does_not_take_is_refused(pattern: str) -> None:
    with pytest.raises(BadRequest, match="not a valid RE2 expression"):
        Stops([], [pattern])


def test_a_catastrophic_regex_is_linear() -> None:
    watcher = Stops([], [r"(a+)+$b|(a|aa)+c"])
    for _ in range(50):
        assert watcher.feed("a" * 200) is None


def test_tokens_after_the_stop_never_existed() -> None:
    out = stream(["one ", "two", " ST", "OP", " three"], stop="STOP")
    assert out.feed([0, 1, 2, 3, 4], Finish.at_length(5)) == "one two "
    assert (out.tokens, out.finish) == (4, Finish.stop("STOP"))


def test_a_text_stop_wins_over_eos_and_length_on_the_same_token() -> None:
    for finish in (Finish.at_length(2), Finish.stop(1)):
        out = stream(["go", "END"], stop="END")
        out.feed([0, 1], finish)
        assert (out.text, out.finish, out.tokens) == ("go", Finish.stop("END"), 2)


def test_the_stop_token_is_not_text_but_counts() -> None:
    out = stream(["go", "!"], stop="END")
    out.feed([0, 1], Finish.stop(1))
    assert (out.text, out.finish, out.tokens) == ("go", Finish.stop(1), 2)


def test_no_stop_trim_keeps_everything() -> None:
    out = stream(["go ", "END", "!"], stop="END", no_stop_trim=True)
    out.feed([0, 1], None)
    assert (out.text, out.finish) == ("go END", Finish.stop("END"))
    plain = stream(["go", "!"], no_stop_trim=True)
    plain.feed([0, 1], Finish.stop(1))
    assert plain.text == "go!"


def test_what_was_held_back_is_said_at_the_end() -> None:
    out = stream(["go ", "EN"], stop="END")
    assert out.feed([0, 1], None) == "go "
    assert out.feed([], Finish.at_length(2)) == "EN"
    assert out.text == "go EN"
