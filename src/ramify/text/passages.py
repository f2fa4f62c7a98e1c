"""Texts that are embedded, ranked or classified, as the model reads them: with their prompt, in pairs, cut where that
is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from ramify.config.head import Head
from ramify.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Passage:
    """`second` is where the second of a pair begins, -1 without one. The first `skip` tokens are a prompt that is read
    and not pooled. `cut`: there was more.
    """

    tokens: list[int]
    second: int = -1
    skip: int = 0
    cut: bool = False


class PassageReader:
    """Of one model; may be used from any thread. `longest` counts tokens, special ones included."""

    def __init__(self, tokenizer: Tokenizer, head: Head | None) -> None:
        self._tokenizer, self._backend = tokenizer, tokenizer.backend
        self._lower = head is not None and head.lower
        self._skips = head is not None and head.skip_prompt

    def read(self, texts: Sequence[str], prompt: str = "", longest: int | None = None) -> list[Passage]:
        """Texts behind a prompt; cut to `longest` where that is a number."""
        whole = [self._spelled(prompt + text) for text in texts]
        skip = self._length_of(prompt) if self._skips and prompt else 0
        encodings = self._backend.encode_batch(whole)
        return [
            self._passage(encoding, text, None, longest, skip) for encoding, text in zip(encodings, whole, strict=True)
        ]

    def read_pairs(self, pairs: Sequence[tuple[str, str]], longest: int | None = None) -> list[Passage]:
        """Two texts in one; where they are cut, the longer one is, until they are of one length."""
        spelled = [(self._spelled(first), self._spelled(second)) for first, second in pairs]
        encodings = self._backend.encode_batch(spelled)
        return [
            self._passage(encoding, first, second, longest, 0)
            for encoding, (first, second) in zip(encodings, spelled, strict=True)
        ]

    def _spelled(self, text: str) -> str:
        return text.lower() if self._lower else text

    def _length_of(self, prompt: str) -> int:
        """Tokens of a prompt, with what stands before every text and without what stands behind."""
        ids = self._backend.encode(self._spelled(prompt)).ids
        while ids and ids[-1] in self._tokenizer.special:
            ids.pop()
        return len(ids)

    def _passage(self, encoding: Encoding, first: str, second: str | None, longest: int | None, skip: int) -> Passage:
        end = self._end(encoding.ids)
        cut = longest is not None and len(encoding.ids) + len(end) > longest
        if longest is not None and cut:
            encoding = self._cut(first, second, longest - len(end))
        tokens = [*encoding.ids, *end]
        return Passage(tokens, _second(encoding.type_ids) if second is not None else -1, skip, cut)

    def _end(self, ids: Sequence[int]) -> list[int]:
        """What has to be added behind: an end that the tokenizer's own template does not know of."""
        end = self._tokenizer.eos_behind
        return [] if end is None or (ids and ids[-1] == end) else [end]

    def _cut(self, first: str, second: str | None, longest: int) -> Encoding:
        """What is around texts stays."""
        room = max(longest - self._backend.num_special_tokens_to_add(second is not None), 0)
        one = self._backend.encode(first, add_special_tokens=False)
        if second is None:
            one.truncate(room)
            return self._backend.post_process(one)
        two = self._backend.encode(second, add_special_tokens=False)
        lengths = shared(len(one), len(two), room)
        one.truncate(lengths[0])
        two.truncate(lengths[1])
        return self._backend.post_process(one, two)


def shared(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts that fit `room` together: the longer one gives way until they are alike, then both do."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= half:
        return room - second, second
    return (half, room - half) if first <= second else (room - half, half)


def _second(types: Sequence[int]) -> int:
    """Models without types of tokens know no second text either."""
    return types.index(1) if 1 in types else -1
