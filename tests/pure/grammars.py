"""What tests of grammars share: the bundled model's vocabulary, and walks through a grammar."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from assets import BUNDLED
from ramify.grammar.constraint import Constraint
from ramify.grammar.library import Library, Session
from ramify.grammar.matcher import Matcher
from ramify.grammar.prelude import Prelude
from ramify.grammar.style import FLEXIBLE, Style
from ramify.grammar.translate import translate
from ramify.grammar.vocabulary import Vocabulary, vocabulary_of
from ramify.text.tokenizer import Tokenizer, load_tokenizer

SHORT = Style(strings=16, items=2, digits=6, closed=True)  # random walks come to an end


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(BUNDLED)


@cache
def vocabulary() -> Vocabulary:
    end = tokenizer().backend.token_to_id("<|im_end|>")
    return vocabulary_of(tokenizer(), tokenizer().size, [end])


@cache
def library() -> Library:
    return Library(vocabulary())


def start(constraint: Constraint, style: Style = FLEXIBLE) -> Matcher:
    """A row of the constraint, compiled here and now; raises `GrammarError`."""
    session = library().compile(translate(constraint, vocabulary().specials, style).lark)
    prelude = Prelude(constraint.after, vocabulary()) if constraint.after else None
    return Matcher(session, vocabulary(), prelude)


def json_schema(schema: Any, **options: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(schema), **options)


def encode(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def text_of(tokens: Sequence[int]) -> str:
    return b"".join(vocabulary().tokens[token] for token in tokens if token not in vocabulary().eos).decode()


def admitted(matcher: Matcher) -> list[int]:
    """The tokens that the mask lets through."""
    row = np.zeros(vocabulary().words, np.int32)
    matcher.mask(row)
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()


def here(matcher: Matcher) -> Session:
    """A session where the matcher is; its own stands behind what is forced from there."""
    session = matcher._session.clone()
    session.rollback(len(matcher._tokens) - matcher._taken)
    return session


def accepts(matcher: Matcher, text: str) -> bool:
    """Whether the output may be this text: every byte follows, and then the end. The spelling does not matter."""
    session = here(matcher)
    for token in encode(text):
        if session.admitted([token]) != 1:
            return False
        session.take(token)
    return session.can_stop


def ends(matcher: Matcher, text: str) -> bool:
    """Whether nothing but the end may follow this text."""
    session = here(matcher)
    for token in encode(text):
        session.take(token)
    return session.must_stop


def walk(matcher: Matcher, seed: int, *, jump: bool = False, steps: int = 1500) -> list[int]:
    """Tokens drawn at uniform random from each mask. With `jump`, forced tokens are taken as they are."""
    rnd = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < steps and not matcher.finished:
        new = matcher.forced() if jump else []
        if not new:
            allowed = admitted(matcher)
            new = [rnd.choice(allowed) if len(allowed) > 1 else allowed[0]]
        for token in new:
            matcher.accept(token)
        tokens += new
    return tokens
