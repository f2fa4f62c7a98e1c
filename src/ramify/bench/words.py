"""Prompts out of nothing: random token ids, or random words that make a wanted number of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Protocol

from ramify.bench.backends import Content
from ramify.text.tokenizer import Tokenizer

CANDIDATES = 4000  # words of the vocabulary that are looked at
ENOUGH = 64  # words with which prompts do not all look alike
TRIES = 20  # at a text whose length is hard to hit
WORD = re.compile(r"[Ġ▁]?([A-Za-z]{2,12})▁?")
PLAIN = (
    "about after again air also animal answer back because before big book boy call came change city come could "
    "country day different door down each earth end even every example eye face far farm father feet few find first "
    "food found four friend from girl give good great group grow hand hard head hear help here high home house idea "
    "into just keep kind know land large last later learn leave left letter life light line list little live long "
    "look made make man many mean men mother mountain move much music name near need never new next night number "
    "often old only open other over own page paper part people picture place plant play point read right river run "
    "same school sea second seem sentence should show side small song soon sound spell start state still stop story "
    "study such take talk tell thing think thought three time together took tree try turn under until very walk want "
    "watch water way well went white while word work world would write year young"
).split()


class Source(Protocol):
    """Where prompts come from. `exact`: they have the tokens that were asked for, as the server counts them."""

    exact: bool

    def more(self, random: Random, before: Content | None, total: int) -> Content:
        """What, put behind `before`, makes `total` tokens of both."""

    def count(self, text: str) -> int:
        """Tokens of a text, or an estimate."""


class RandomIds:
    """Token ids of `tokenizer`, special ones left out. `vocab`: the model has no ids from there on."""

    exact = True

    def __init__(self, tokenizer: Tokenizer, vocab: int | None = None) -> None:
        self._tokenizer = tokenizer
        size = min(tokenizer.size, vocab or tokenizer.size)
        self._ids = [token for token in range(size) if token not in tokenizer.special]

    def more(self, random: Random, before: Content | None, total: int) -> list[int]:
        return random.choices(self._ids, k=max(total - len(before or ()), 1))

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text))


class CountedWords:
    """Words that the tokenizer has counted. `framed`: the server puts BOS and the like around what it is sent."""

    exact = True

    def __init__(self, tokenizer: Tokenizer, framed: bool) -> None:
        self._tokenizer, self._framed = tokenizer, framed
        self._words = whole_words(tokenizer)

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=self._framed))

    def more(self, random: Random, before: Content | None, total: int) -> str:
        """Nearest to `total` of a few tries; with an ordinary tokenizer the first is right."""
        head = str(before or "")
        best, best_off = "", total + 1
        for _ in range(TRIES):
            text = self._attempt(random, head, total)
            off = abs(self.count(head + text) - total)
            if off < best_off or not best:
                best, best_off = text, off
            if off == 0:
                break
        return best

    def _attempt(self, random: Random, head: str, total: int) -> str:
        """Words until there are enough tokens, then letters off the end until there are not too many."""
        text, missing = "", max(total - self.count(head), 1)
        while missing > 0:
            text += " " * bool(head + text) + " ".join(random.choices(self._words, k=missing))
            missing = total - self.count(head + text)
        if missing == 0:
            return text
        shortest = 1 + bool(head)
        text = self._halved(head, text, total)
        while self.count(head + text) > total and len(text) > shortest:
            text = text[:-1].rstrip()
        return text

    def _halved(self, head: str, text: str, total: int) -> str:
        """The shortest beginning, by halving, that still has more tokens than `total`."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high) // 2
            if self.count(head + text[:middle]) > total:
                high = middle
            else:
                low = middle + 1
        return text[:high]


class PlainWords:
    """Common words of English, for servers whose tokenizer is not here. Lengths are estimates."""

    exact = False

    def __init__(self, tokens_per_word: float) -> None:
        self._rate = tokens_per_word

    def count(self, text: str) -> int:
        return round(len(text.split()) * self._rate)

    def more(self, random: Random, before: Content | None, total: int) -> str:
        head = str(before or "")
        words = random.choices(PLAIN, k=max(round(total / self._rate) - len(head.split()), 1))
        return " " * bool(head) + " ".join(words)


def whole_words(tokenizer: Tokenizer) -> Sequence[str]:
    """Words of the vocabulary that are one token each in the middle of a text, if there are enough; else any words."""
    vocabulary = tokenizer.backend.get_vocab()
    found = {match[1] for token in vocabulary if (match := WORD.fullmatch(token))}
    words = sorted(found, key=lambda word: (len(word), word))
    words = Random(0).sample(words, min(len(words), CANDIDATES))
    bare = len(tokenizer.encode("the the", add_special_tokens=False))
    encoded = tokenizer.encode_batch([f"the {word} the" for word in words], add_special_tokens=False)
    single = [word for word, ids in zip(words, encoded, strict=True) if len(ids) == bare + 1]
    if len(single) >= ENOUGH:
        return single
    return words if len(words) >= ENOUGH else PLAIN
