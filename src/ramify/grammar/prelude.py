"""The free part before a grammar: anything goes until a marker, such as the end of thinking, has been said.

The marker is looked for in bytes, special tokens spelled out, so that it may be one token or many. A token that
completes it may go on with white space; one that goes on with more is not admitted, since the grammar has not seen it.
"""

from __future__ import annotations

import numpy as np

from ramify.grammar.library import Mask
from ramify.grammar.vocabulary import Vocabulary

SPACE = b" \t\r\n"


class Prelude:
    """An automaton over tokens for one marker (Knuth, Morris, Pratt 1977); shared by all rows that have it.

    States are how many bytes of the marker stand at the end of the text; `end` is reached when all do.
    """

    def __init__(self, marker: str, vocabulary: Vocabulary) -> None:
        self._marker = marker.encode()
        self._tokens = vocabulary.tokens
        self._fail = _failures(self._marker)
        self.end = len(self._marker)
        free = np.zeros(vocabulary.words * 32, np.uint8)
        free[: vocabulary.size] = [token != b"" for token in self._tokens]
        free[list(vocabulary.eos)] = 0
        self._masks = [_packed(free, overrunning) for overrunning in self._overrunning()]

    def step(self, state: int, token: int) -> int:
        return self._run(state, self._tokens[token])[0]

    def mask(self, state: int) -> Mask:
        """The tokens that may come next in a state before the end; not to be written to."""
        return self._masks[state]

    def _run(self, state: int, text: bytes) -> tuple[int, int]:
        """The state after some text, and how much of it was read: no more once the marker is complete."""
        for at, byte in enumerate(text):
            while state and self._marker[state] != byte:
                state = self._fail[state]
            state += self._marker[state] == byte
            if state == self.end:
                return state, at + 1
        return state, len(text)

    def _overrunning(self) -> list[list[int]]:
        """For each state, the tokens that complete the marker and go on with more than white space."""
        last = self._marker[-1:]
        able = [(i, token) for i, token in enumerate(self._tokens) if last in token[:-1]]
        found: list[list[int]] = []
        for state in range(self.end):
            runs = ((index, token, *self._run(state, token)) for index, token in able)
            found.append([index for index, token, to, read in runs if to == self.end and token[read:].strip(SPACE)])
        return found


def _failures(marker: bytes) -> list[int]:
    """For each state, the longest shorter one that the same text is in."""
    fail, state = [0, 0], 0
    for byte in marker[1:]:
        while state and marker[state] != byte:
            state = fail[state]
        state += marker[state] == byte
        fail.append(state)
    return fail


def _packed(free: np.ndarray, without: list[int]) -> Mask:
    bits = free.copy()
    bits[without] = 0
    packed = np.packbits(bits, bitorder="little").view(np.int32)
    packed.flags.writeable = False
    return packed
