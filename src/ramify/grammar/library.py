"""llguidance, and nothing else here imports it.

Its limits are fuel, so that a step costs at most some tens of milliseconds whatever the grammar (but for forced text:
see `worker`). It never raises: a matcher that met a limit is in error for good, and so may be all that share its
automaton. It gives the tokens that are forced: the canonical encoding of the bytes that must follow, short of those at
the end that a longer token could yet cover.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from ramify.grammar.constraint import GrammarError, GrammarFault
from ramify.grammar.vocabulary import Vocabulary

Mask = NDArray[np.int32]  # one bit per token, least significant first

LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 30_000,
    "max_lexer_states": 20_000,  # 1 to 2 kB each, shared by all rows of a grammar
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}
LONGEST = 4096  # characters of forced text to tokenize at once
UNSURE = 4  # tokens at the end of a text that was cut: they may be parts of others
PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")
EXCERPT = re.compile(r"^\s*(?:\d+ \||\^|<)")
UNFIT = "doesn't satisfy the grammar"
PLAIN = (  # what the library says, and what it means
    ("NoExtension", "no text satisfies the grammar"),
    ("Too many items", "the grammar is too ambiguous, or forces text without end"),
    ("Current row has", "the grammar leaves too many possibilities open at once"),
    ("too many expressions", "a regex of the grammar is too complex"),
    ("too many states", "the grammar has used up its automaton"),
)


class _Wrapper:
    """A vocabulary in the shape that the library reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos[0]
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = list(vocabulary.specials.values())
        self._canonical = vocabulary.canonical

    def __call__(self, text: str) -> list[int]:
        """The tokens of a forced text; of a very long one, of its beginning: the rest comes when that is said."""
        if len(text) <= LONGEST:
            return self._canonical(text)
        return self._canonical(text[:LONGEST])[:-UNSURE]


class Library:
    """Compiles for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = LLTokenizer(_Wrapper(vocabulary), eos_token=list(vocabulary.eos))  # type: ignore[arg-type]
        self.words = vocabulary.words

    def compile(self, lark: str) -> Session:
        """A session at the beginning, its first mask computed; raises `GrammarError`. Releases the GIL."""
        matcher = LLMatcher(self._tokenizer, lark, log_level=0, limits=LLParserLimits(**LIMITS))  # type: ignore[arg-type]
        if matcher.is_error():
            raise GrammarError(explain(matcher.get_error()))
        session = Session(matcher)
        try:
            session.forced()
            session.mask(np.zeros(self.words, np.int32))
        except GrammarFault as e:
            raise GrammarError(e.message) from None
        return session


class Session:
    """A place in a grammar. One thread uses it; clones share what the library has learned of the grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def clone(self) -> Session:
        return Session(self._matcher.deep_copy())

    def mask(self, out: Mask) -> None:
        """Set the bit of every token that may come next, clear all others; EOS among them where the text may end."""
        self._matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
        self._check()

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Canonical tokens that must follow."""
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of these may follow."""
        return self._matcher.validate_tokens(list(tokens))

    def rollback(self, count: int) -> None:
        """Take back tokens; the library cannot where it is in error."""
        if not self._matcher.rollback(count):
            raise GrammarFault(explain(self._matcher.get_error()))

    @property
    def can_stop(self) -> bool:
        return self._matcher.is_accepting()

    @property
    def must_stop(self) -> bool:
        """Nothing may follow but the end."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def warnings(self) -> list[str]:
        """What of a schema is not enforced, where it was not strict."""
        return self._matcher.get_grammar_warnings()

    def _check(self) -> None:
        if self._matcher.is_error():
            error = self._matcher.get_error()
            raise GrammarFault(explain(error), is_shared=UNFIT not in error)


def explain(error: str) -> str:
    """The library's error in one line, without excerpts of the grammar, which is ours."""
    for sign, meaning in PLAIN:
        if sign in error:
            return meaning
    lines = [PLACE.sub("", line) for line in error.splitlines() if line.strip() and not EXCERPT.match(line)]
    return "; ".join(line.strip() for line in lines)[:500] or "the grammar is not valid"
