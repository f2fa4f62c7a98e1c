"""From the tokens of one generation to its text, and to where its text ends it.

tokens:   t1 t2 t3 t4 t5            a stop string completes in t4: t5 never existed
text:     said | held back          what may still become a stop string is not said yet
"""

from __future__ import annotations

from collections.abc import Sequence

from ramify.core.finish import Finish
from ramify.core.params import SamplingParams
from ramify.text.detokenize import Detokenizer
from ramify.text.stops import Stops


class TextStream:
    """Feed tokens as they come. `text` is everything said so far, `tokens` how many tokens count, `finish` the end.

    One thread feeds; others may read `text` meanwhile.
    """

    def __init__(self, params: SamplingParams, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._trims = not params.no_stop_trim
        self._stops = Stops(params.stop_strings, params.stop_patterns) if params.has_text_stops else None
        self._pieces: list[str] = []
        self._cut: int | None = None
        self.said = 0  # characters of `text`
        self.tokens = 0
        self.finish: Finish | None = None

    @property
    def text(self) -> str:
        """Everything said; less than that where a regex without a bound turned out to begin in what was said."""
        return "".join(self._pieces)[: self._cut]

    def feed(self, tokens: Sequence[int], finish: Finish | None) -> str:
        """Add tokens, the last ones if `finish`. Returns the text that can be said now."""
        said = self._feed(tokens, finish)
        if said:
            self._pieces.append(said)
        self.said += len(said)
        if self._cut is not None:
            self.said = min(self.said, self._cut)
        return said

    def _feed(self, tokens: Sequence[int], finish: Finish | None) -> str:
        stop_token = finish is not None and finish.by_token and bool(tokens)
        said = ""
        for token in tokens[:-1] if stop_token else tokens:
            said += self._say(self._detokenizer.step(token), 1)
            if self.finish is not None:
                return said
        if stop_token:
            said += self._end_on_stop_token(tokens[-1])
        if finish is not None and self.finish is None:
            said += self._end(finish)
        return said

    def _say(self, new: str, tokens: int) -> str:
        """New text; what of it, and of what was held back, can be said."""
        self.tokens += tokens
        if self._stops is None:
            return new
        before = self._stops.safe
        hit = self._stops.feed(new)
        if hit is None:
            return self._stops.text[before : self._stops.safe]
        self.finish = Finish.stop(hit.matched)
        if not self._trims:
            return self._stops.text[before:]
        self._cut = hit.start
        return self._stops.text[before : hit.start]

    def _end_on_stop_token(self, token: int) -> str:
        """The token that ends the request is not text, unless its text completes a stop string, which then wins."""
        said = self._say(self._detokenizer.flush(), 0)
        if self.finish is not None:
            return said
        new = self._detokenizer.step(token) + self._detokenizer.flush()
        if not self._trims:
            return said + self._say(new, 1)
        self.tokens += 1
        if self._stops is None or not new:
            return said
        kept, before = self._stops.text, self._stops.safe
        hit = self._stops.feed(new)
        if hit is not None:
            self.finish, self._cut = Finish.stop(hit.matched), hit.start
            return said + self._stops.text[before : hit.start]
        self._stops.text, self._stops.safe = kept, before
        return said

    def _end(self, finish: Finish) -> str:
        """The engine ended it: say what was held back."""
        said = self._say(self._detokenizer.flush(), 0)
        if self.finish is not None:
            return said
        self.finish = finish
        return said if self._stops is None else said + self._stops.text[self._stops.safe :]
