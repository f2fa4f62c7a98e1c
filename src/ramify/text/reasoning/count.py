"""How many tokens were reasoning, from where in the text each token ended and where the reasoning was."""

from __future__ import annotations

from bisect import bisect_left


class TokenCount:
    """Learns of text and tokens as they are fed, and tells how many tokens a stretch of the text was.

    Exact where the stretch begins and ends between feeds, as it does when tokens are fed one at a time and the marks
    are tokens of their own. Inside one feed its tokens are taken to be of equal length.
    """

    def __init__(self) -> None:
        self._ends = [0]  # characters fed after each feed
        self._tokens = [0]  # tokens fed after each feed

    def add(self, characters: int, tokens: int) -> None:
        if tokens:
            self._ends.append(self._ends[-1] + characters)
            self._tokens.append(self._tokens[-1] + tokens)
        else:
            self._ends[-1] += characters

    def between(self, start: int, end: int) -> int:
        """Tokens of the characters from `start` to `end`, marks included."""
        return round(self._before(end) - self._before(start))

    def since(self, start: int) -> int:
        """Tokens from `start` on, among them those that have no characters yet."""
        return round(self._tokens[-1] - self._before(start))

    def _before(self, offset: int) -> float:
        place = bisect_left(self._ends, offset)
        if place == 0:
            return 0
        if place == len(self._ends):
            return self._tokens[-1]
        left, right = self._ends[place - 1], self._ends[place]
        share = (offset - left) / (right - left)
        return self._tokens[place - 1] + share * (self._tokens[place] - self._tokens[place - 1])
