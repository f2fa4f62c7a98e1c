"""Grammars as text in the dialect of Lark that grammar libraries share (llguidance's, which xgrammar reads too).

Its lexer takes the longest match and never reconsiders: after `A: /[a-z]+/`, a literal "x" can never follow. So every
stretch of a grammar that is regular becomes ONE terminal, within which there is nothing to reconsider: that is what
`Piece.regular` is for. What begins a terminal where another could go on remains the author's affair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

EMPTY = '""'
ANY = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Piece:
    """An expression. A `regular` one may stand in a terminal; `atomic` ones need no brackets. `weight` is how many
    symbols it may stand for at once, JSON and what is not defined yet left out.
    """

    text: str
    regular: bool
    atomic: bool = True
    weight: int = 0

    @property
    def closed(self) -> str:
        return self.text if self.atomic else f"({self.text})"


NOTHING = Piece(EMPTY, regular=True)


class Lark:
    """Collects rules. `specials` are the ids of special tokens by their text: a literal that spells one out means the
    token, since the text itself would be tokenized otherwise.
    """

    def __init__(self, specials: Mapping[str, int]) -> None:
        self._specials = specials
        names = sorted((name for name in specials if name), key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        self._lines: list[str] = []
        self._names = 0

    def source(self, root: Piece) -> str:
        """The whole grammar, which matches `root`."""
        return "\n".join([f"start: {self._in_rule(root)}", *self._lines])

    # -- what grammars are made of -----------------------------------------------------------------------------------

    def literal(self, text: str) -> Piece:
        parts = self._split.split(text) if self._split else [text]
        return self.sequence([self._part(part) for part in parts if part])

    def _part(self, text: str) -> Piece:
        if text in self._specials:
            return self.token(self._specials[text])
        return Piece(json.dumps(text, ensure_ascii=False), regular=True, weight=len(text))

    def token(self, index: int) -> Piece:
        """One special token."""
        return Piece(f"<[{index}]>", regular=False, weight=1)

    def regex(self, rust: str, weight: int = 1) -> Piece:
        return Piece(f"/{rust}/", regular=True, weight=weight) if rust else NOTHING

    def json(self, schema: str) -> Piece:
        """JSON by a schema (JSON text of an object)."""
        return self.rule(Piece(f"%json {schema}", regular=False))

    def sequence(self, pieces: Iterable[Piece]) -> Piece:
        """One after the other. Neighbours that are regular are joined."""
        kept = [piece for piece in pieces if piece.text != EMPTY]
        if len(kept) < 2:
            return kept[0] if kept else NOTHING
        weight = sum(piece.weight for piece in kept)
        if all(piece.regular for piece in kept):
            return Piece(" ".join(piece.closed for piece in kept), regular=True, atomic=False, weight=weight)
        out: list[str] = []
        run: list[Piece] = []
        for piece in kept:
            if piece.regular:
                run.append(piece)
                continue
            out += self._joined(run)
            out.append(piece.closed)
            run = []
        return Piece(" ".join(out + self._joined(run)), regular=False, atomic=False, weight=weight)

    def either(self, pieces: Sequence[Piece]) -> Piece:
        if len(pieces) == 1:
            return pieces[0]
        regular = all(piece.regular for piece in pieces)
        texts = [piece.closed if regular else self._in_rule(piece) for piece in pieces]
        return Piece(" | ".join(texts), regular, atomic=False, weight=max(piece.weight for piece in pieces))

    def repeat(self, piece: Piece, low: int, high: int | None) -> Piece:
        if piece.text == EMPTY or high == 0:
            return NOTHING
        sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
        if sign is None:
            sign = f"{{{low},{'' if high is None else high}}}"
        body = piece.closed if piece.regular else f"({piece.text})"
        times = max(low + 1 if high is None else high, 1)
        return Piece(body + sign, piece.regular, atomic=False, weight=piece.weight * times)

    def rule(self, body: Piece) -> Piece:
        """A rule of its own; of regular pieces a terminal."""
        return replace(self.define(self.name(body.regular), body), weight=body.weight)

    def name(self, regular: bool) -> Piece:
        """A name for something that is defined later: a rule may refer to itself."""
        self._names += 1
        return Piece(f"{'T' if regular else 'r'}{self._names}", regular)

    def define(self, name: Piece, body: Piece, option: str = "") -> Piece:
        self._lines.append(f"{name.text}{option}: {body.text if name.regular else self._in_rule(body)}")
        return name

    def until(self, marker: Piece, without: Sequence[str] = ()) -> Piece:
        """Any text, ended by the first occurrence of `marker`."""
        text = self.free(without)
        if not marker.regular:
            return self.sequence([text, marker])
        head = self.define(self.name(regular=False), self.sequence([text, marker]), "[lazy]")
        return replace(head, weight=marker.weight)

    def free(self, without: Sequence[str] = ()) -> Piece:
        """Any text that does not hold one of these strings."""
        if not without:
            return Piece(ANY, regular=True)
        banned = " | ".join(json.dumps(word, ensure_ascii=False) for word in without)
        return Piece(f"{ANY} & ~({ANY} ({banned}) {ANY})", regular=True, atomic=False)

    # -- terminals in rules ------------------------------------------------------------------------------------------

    def _joined(self, run: list[Piece]) -> list[str]:
        return [self._in_rule(self.sequence(run))] if run else []

    def _in_rule(self, piece: Piece) -> str:
        """As it may stand in a rule: regular pieces as one terminal."""
        return self.rule(piece).text if piece.regular and not piece.atomic else piece.text
