"""Rows: masks, forced tokens, the end, going back, and the free part before a grammar."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from grammars import SHORT, admitted, encode, json_schema, start, text_of, tokenizer, vocabulary, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import shared
from ramify.grammar import calls
from ramify.grammar.calls import Callable, only_calls
from ramify.grammar.constraint import Constraint, GrammarFault, choice
from ramify.grammar.matcher import Matcher
from ramify.grammar.prelude import Prelude
from ramify.grammar.style import FIXED, FLEXIBLE, Style
from ramify.grammar.vocabulary import Vocabulary, specials_of, vocabulary_of
from ramify.text.tokenizer import load_tokenizer
from ramify.text.tools.registry import TOOL_FORMATS

EOS = tokenizer().backend.token_to_id("<|im_end|>")
THINK_END = tokenizer().backend.token_to_id("</think>")
WEATHER = {
    "type": "object",
    "properties": {
        "location_of_the_station": {"type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "measurement": {
            "type": "object",
            "properties": {"temperature": {"type": "integer"}, "precipitation": {"type": "boolean"}},
            "required": ["temperature", "precipitation"],
            "additionalProperties": False,
        },
    },
    "required": ["location_of_the_station", "unit", "measurement"],
    "additionalProperties": False,
}
CALL = only_calls(TOOL_FORMATS["hermes"], [Callable("weather", WEATHER)], parallel=False)
CONSTRAINTS = [
    json_schema(WEATHER),
    json_schema({"type": "array", "items": {"enum": ["north", "north-east", "south"]}, "minItems": 2}),
    Constraint("json_object"),
    Constraint("regex", r"(GET|POST) /[a-z]{1,8}/\d{2} HTTP/1\.1"),
    Constraint("ebnf", 'root ::= "{" (pair ("," pair)*)? "}"\npair ::= "key" [0-9] ": " (root | "none")'),
    choice(["yes", "no", "yesterday evening", "nowhere"]),
    calls.constraint(CALL, strict=True),
]

LEAVES: list[dict[str, Any]] = [
    {"type": "integer"},
    {"type": "boolean"},
    {"const": "fixed text"},
    {"enum": ["orderId", "orderName"]},
    {"type": "string", "maxLength": 5},
]
schemas = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 2}, inner),
        st.dictionaries(st.sampled_from(["a", "name", "orderId", "order_name", "é"]), inner, min_size=1).map(
            lambda p: {"type": "object", "properties": p, "required": list(p), "additionalProperties": False}
        ),
    ),
    max_leaves=6,
)


# -- forced tokens ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(schema=schemas, seed=st.integers(0, 10**6), style=st.sampled_from([FIXED, FLEXIBLE]))
def test_jump_forward_changes_no_token(schema: dict[str, Any], seed: int, style: Style) -> None:
    beginning = start(json_schema(schema), style)
    assert walk(beginning.clone(), seed, jump=True) == walk(beginning.clone(), seed, jump=False)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c.kind)
@pytest.mark.parametrize("seed", range(4))
def test_jump_forward_changes_no_token_of_any_kind(constraint: Constraint, seed: int) -> None:
    beginning = start(constraint, SHORT)
    assert walk(beginning.clone(), seed, jump=True) == walk(beginning.clone(), seed, jump=False)


@settings(max_examples=40, deadline=None)
@given(schema=schemas, seed=st.integers(0, 10**6))
def test_where_tokens_are_forced_the_mask_admits_the_next_of_them_alone(schema: dict[str, Any], seed: int) -> None:
    matcher, rnd = start(json_schema(schema), FIXED), random.Random(seed)
    while not matcher.finished:
        allowed = admitted(matcher)
        forced = matcher.forced()
        assert not forced or allowed == forced[:1]
        matcher.accept(rnd.choice(allowed))


def test_forced_tokens_are_the_canonical_spelling() -> None:
    """As the tokenizer spells the whole text, up to the last token, which may yet be part of a longer one."""
    matcher = start(json_schema({"const": "a long text that nobody has to choose"}))
    whole = '"a long text that nobody has to choose"'
    assert matcher.forced() == encode(whole)
    matcher = start(json_schema(WEATHER), FIXED)
    forced = matcher.forced()
    assert len(forced) > 3
    assert forced == encode('{"location_of_the_station": "')[: len(forced)]


def test_what_is_not_decided_is_not_forced() -> None:
    """Both texts go on with `temper`; forcing that would keep the model from the token it knows."""
    assert len(encode(" temperature")) == 1
    matcher = start(Constraint("regex", "the temper(ature|ed)"))
    assert matcher.forced() == encode("the")
    for token in (*encode("the"), *encode(" temperature")):
        assert token in admitted(matcher)
        matcher.accept(token)
    assert matcher.finished


def test_most_tokens_of_a_closed_schema_are_forced() -> None:
    matcher = start(json_schema(WEATHER), FIXED)
    measured = {"temperature": 21, "precipitation": True}
    text = json.dumps({"location_of_the_station": "Rome", "unit": "celsius", "measurement": measured})
    steps = tokens = 0
    for token in encode(text):
        steps += not matcher.forced()
        tokens += 1
        matcher.accept(token)
    assert matcher.finished
    assert steps / tokens <= 0.4


# -- validity and the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_walks_end_in_valid_json(seed: int) -> None:
    schema = WEATHER | {"properties": WEATHER["properties"] | {"tags": {"type": "array"}, "note": True}}  # type: ignore[operator]
    tokens = walk(start(json_schema(schema), SHORT), seed)
    jsonschema.validate(json.loads(text_of(tokens)), schema)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c.kind)
def test_eos_is_admitted_where_the_text_may_end_and_nowhere_else(constraint: Constraint) -> None:
    matcher, rnd = start(constraint, SHORT), random.Random(1)
    for _ in range(200):
        if matcher.finished:
            break
        allowed = admitted(matcher)
        assert (EOS in allowed) == matcher.can_stop
        assert set(allowed).isdisjoint(tokenizer().special - {EOS})
        matcher.accept(rnd.choice([token for token in allowed if token != EOS] or [EOS]))


def test_eos_ends_a_row() -> None:
    matcher = start(Constraint("regex", "ab*"))
    matcher.accept(encode("a")[0])
    assert matcher.can_stop
    assert not matcher.finished
    matcher.accept(EOS)
    assert matcher.finished
    assert matcher.position == 2
    assert matcher.forced() == []
    matcher.rollback(1)
    assert not matcher.finished
    assert EOS in admitted(matcher)


def test_a_row_is_finished_when_nothing_can_follow() -> None:
    matcher = start(choice(["a b c"]))
    for token in matcher.forced():
        assert not matcher.finished
        matcher.accept(token)
    assert matcher.finished
    assert admitted(matcher) == [EOS]


def test_a_token_that_does_not_fit_is_a_fault_of_that_row_alone() -> None:
    beginning = start(Constraint("regex", "[ab]+"))
    row, other = beginning.clone(), beginning.clone()
    with pytest.raises(GrammarFault):
        row.accept(encode("z")[0])
    with pytest.raises(GrammarFault):
        beginning.clone().accept(EOS)
    other.accept(encode("a")[0])
    assert other.can_stop


# -- going back ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(which=st.integers(0, len(CONSTRAINTS) - 1), seed=st.integers(0, 10**6), thinks=st.booleans())
def test_rollback_and_clones_stand_where_a_new_row_would(which: int, seed: int, thinks: bool) -> None:
    after = "</think>" if thinks else ""
    constraint = Constraint(CONSTRAINTS[which].kind, CONSTRAINTS[which].text, after=after)
    beginning, rnd = start(constraint, SHORT), random.Random(seed)
    matcher, tokens = beginning.clone(), _thoughts(rnd) if thinks else []
    for token in tokens:
        matcher.accept(token)
    for _ in range(25):
        if matcher.position and (matcher.finished or rnd.random() < 0.3):
            back = rnd.randrange(1, matcher.position + 1)
            matcher.rollback(back)
            del tokens[len(tokens) - back :]
        elif not matcher.is_free:
            tokens.append(rnd.choice(admitted(matcher)))
            matcher.accept(tokens[-1])
        else:
            tokens.append(THINK_END)
            matcher.accept(THINK_END)
        if rnd.random() < 0.2:
            matcher = matcher.clone()
        _compare(matcher, beginning, tokens)


def _thoughts(rnd: random.Random) -> list[int]:
    return [*encode("I think so")[: rnd.randrange(4)], THINK_END]


def _compare(matcher: Matcher, beginning: Matcher, tokens: list[int]) -> None:
    fresh = beginning.clone()
    for token in tokens:
        fresh.accept(token)
    assert matcher.position == fresh.position == len(tokens)
    assert (matcher.finished, matcher.can_stop) == (fresh.finished, fresh.can_stop)
    assert matcher.forced() == fresh.forced()
    if not matcher.finished:
        assert admitted(matcher) == admitted(fresh)


def test_guesses_are_checked_without_moving() -> None:
    matcher = start(json_schema(WEATHER), FIXED)
    forced = matcher.forced()
    assert matcher.admitted([*forced, EOS]) == len(forced)
    assert matcher.admitted([EOS]) == 0
    assert matcher.admitted([forced[0], forced[0]]) == 1
    assert matcher.position == 0
    assert matcher.forced() == forced


# -- the free part ---------------------------------------------------------------------------------------------------


def thinking() -> Matcher:
    return start(Constraint("json_object", after="</think>"))


@pytest.mark.parametrize("thought", ["", "Let me see: {1}", "a </thi", "</", "<</think"])
def test_anything_goes_until_the_end_of_thinking(thought: str) -> None:
    matcher = thinking()
    for token in encode(thought):
        allowed = admitted(matcher)
        assert token in allowed
        assert EOS not in allowed
        assert not matcher.can_stop
        assert matcher.forced() == []
        matcher.accept(token)
    assert matcher.is_free
    matcher.accept(THINK_END)
    assert not matcher.is_free
    assert {text_of([token])[:1] for token in admitted(matcher)} == {"{", "\n"}


def test_the_end_of_thinking_may_be_spelled_in_pieces() -> None:
    matcher = thinking()
    for byte in b"so </think>":
        assert matcher.is_free
        matcher.accept(vocabulary().tokens.index(bytes([byte])))
    assert not matcher.is_free


def test_the_end_of_thinking_may_be_a_special_token() -> None:
    matcher = start(Constraint("json_object", after="<|im_start|>"))
    special = tokenizer().backend.token_to_id("<|im_start|>")
    assert special in admitted(matcher)
    matcher.accept(special)
    assert not matcher.is_free


WORDS = [b"", b"a", b"ab", b"aab", b"b", b"b!", b"aab!", b"b\n", b"xaab", b"aabaab", b"<eos>", b"aa"]


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.sampled_from([w for w in range(len(WORDS)) if w not in (0, 10)]), max_size=8))
def test_a_marker_is_found_wherever_tokens_are_cut(tokens: list[int]) -> None:
    """Against `bytes.find`, for a marker that overlaps itself. Tokens that run over it are not admitted."""
    words = Vocabulary(WORDS, {"<eos>": 10}, (10,), lambda text: [])
    prelude = Prelude("aab", words)
    state, text = 0, b""
    for token in tokens:
        after = text + WORDS[token]
        found = after.find(b"aab")
        runs_over = found >= 0 and bool(after[found + 3 :].strip())
        is_admitted = bool(prelude.mask(state).view(np.uint32)[0] >> token & 1)
        assert is_admitted == (not runs_over)
        if not is_admitted:
            return
        state, text = prelude.step(state, token), after
        assert (state == prelude.end) == (found >= 0)
        if state == prelude.end:
            return


def test_white_space_after_thinking_is_bounded() -> None:
    matcher = thinking()
    for token in (THINK_END, *encode("\n\n")):
        matcher.accept(token)
    assert {text_of([token])[:1] for token in admitted(matcher)} == {"{"}


# -- vocabularies ----------------------------------------------------------------------------------------------------


def test_logits_may_be_more_than_tokens() -> None:
    words = vocabulary_of(tokenizer(), tokenizer().size + 40, [EOS])
    assert words.size == tokenizer().size + 40
    assert words.tokens[-1] == b""
    assert words.words == -(-words.size // 32)


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    assert set(vocabulary().specials.values()) == tokenizer().special
    assert specials_of(tokenizer()) == vocabulary().specials
    assert vocabulary().tokens[THINK_END] == b"</think>"


def test_a_spelling_gives_back_what_was_asked() -> None:
    for text in ('{"a": 1}', " leading", "é\n\t", "<tool_call>", "x" * 50):
        spelled = vocabulary().canonical(text)
        assert b"".join(vocabulary().tokens[token] for token in spelled) == text.encode()


def test_sentencepiece_vocabularies() -> None:
    """Spaces are U+2581, bytes have tokens of their own, and nothing is put before a text."""
    folder = shared("tokenizers/phi/phi-3-mini")
    sentences = load_tokenizer(folder)
    words = vocabulary_of(sentences, sentences.size, [sentences.backend.token_to_id("<|endoftext|>")])
    for text in ("name", " name", '{"name": "é\n"}', "a  b"):
        spelled = words.encode(text)
        assert b"".join(words.tokens[token] for token in spelled) == text.encode()
