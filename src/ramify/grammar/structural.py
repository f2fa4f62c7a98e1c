"""Structural tags: free text, literals, JSON and grammars put together, in SGLang's old shape and the new one.

    {"type": "structural_tag", "structures": [{"begin", "schema", "end"}], "triggers": [...]}     old
    {"type": "structural_tag", "format": {"type": "triggered_tags", "tags": [...], ...}}          new: a tree of formats

Texts that spell a special token mean that token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ramify.grammar import ebnf, regex
from ramify.grammar.constraint import MAX_MARKER, MAX_REPEATS, MAX_TAGS, GrammarError
from ramify.grammar.lark import NOTHING, Lark, Piece
from ramify.grammar.prepare import prepare
from ramify.grammar.style import Style

Format = dict[str, Any]


def translate(raw: Any, lark: Lark, specials: Mapping[str, int], strict: bool, style: Style) -> Piece:
    """A structural tag of either shape as a piece of `lark`."""
    if not isinstance(raw, dict) or raw.get("type", "structural_tag") != "structural_tag":
        raise _error("structural_tag", 'must be an object of type "structural_tag"')
    writer = _Writer(lark, specials, strict, style)
    if "structures" in raw:
        return writer.piece(_modernise(raw), "structural_tag")
    return writer.piece(_get(raw, "format", dict, "structural_tag"), "structural_tag.format")


def _modernise(raw: Format) -> Format:
    tags = [
        {
            "begin": entry.get("begin"),
            "content": {"type": "json_schema", "json_schema": entry.get("schema", entry.get("schema_")) or {}},
            "end": entry.get("end"),
        }
        for entry in _list(raw, "structures", "structural_tag", dict)
    ]
    return {"type": "triggered_tags", "tags": tags} | {k: v for k, v in raw.items() if k not in ("type", "structures")}


class _Writer:
    """One method per type of format; each gets the format and its path."""

    def __init__(self, lark: Lark, specials: Mapping[str, int], strict: bool, style: Style) -> None:
        self._lark = lark
        self._specials = specials
        self._strict = strict
        self._style = style
        self._formats: dict[str, Callable[[Format, str], Piece]] = {
            "const_string": self._const_string,
            "json_schema": self._json_schema,
            "grammar": self._grammar,
            "regex": self._regex,
            "any_text": self._any_text,
            "token": self._token,
            "sequence": self._sequence,
            "or": self._or,
            "optional": lambda raw, at: self._many(raw, at, 0, 1),
            "plus": lambda raw, at: self._many(raw, at, 1, None),
            "star": lambda raw, at: self._many(raw, at, 0, None),
            "repeat": self._repeat,
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._tags_with_separator,
        }

    def piece(self, raw: Any, at: str) -> Piece:
        if not isinstance(raw, dict):
            raise _error(at, "must be an object")
        kind = raw.get("type")
        if kind not in self._formats:
            raise _error(
                at, f"type {kind!r} is not supported; known are {', '.join(self._formats)}", construct=str(kind)
            )
        made = self._formats[kind](raw, at)
        if made.weight > MAX_REPEATS:
            raise _error(at, f"this {kind} stands for more than {MAX_REPEATS} symbols", construct=str(kind))
        return made

    # -- single pieces -----------------------------------------------------------------------------------------------

    def _const_string(self, raw: Format, at: str) -> Piece:
        return self._lark.literal(_get(raw, "value", str, at))

    def _json_schema(self, raw: Format, at: str) -> Piece:
        if raw.get("style", "json") != "json" or raw.get("any_order"):
            name = "any_order" if raw.get("any_order") else f"style {raw['style']!r}"
            raise _error(at, f"{name} is not supported", construct=name)
        wanted = _get(raw, "json_schema", dict | bool, at)
        return self._lark.json(prepare(wanted, f"{at}.json_schema", self._strict, self._style))

    def _grammar(self, raw: Format, at: str) -> Piece:
        return ebnf.translate(_get(raw, "grammar", str, at), self._lark, f"{at}.grammar")

    def _regex(self, raw: Format, at: str) -> Piece:
        return self._lark.regex(*regex.translate(_get(raw, "pattern", str, at), f"{at}.pattern"))

    def _any_text(self, raw: Format, at: str) -> Piece:
        for limit in ("max_tokens", "max_chars"):
            if raw.get(limit) is not None:
                raise _error(at, f"{limit} is not supported", construct=limit)
        return self._lark.free(_texts(raw, "excludes", at))

    def _token(self, raw: Format, at: str) -> Piece:
        token = _get(raw, "token", int | str, at)
        for text, index in self._specials.items():
            if token in (text, index):
                return self._lark.token(index)
        raise _error(f"{at}.token", f"{token!r} is no special token of this model", construct=str(token))

    # -- composition -------------------------------------------------------------------------------------------------

    def _sequence(self, raw: Format, at: str) -> Piece:
        """Free text before a fixed string ends where that string begins."""
        elements = _list(raw, "elements", at, dict)
        pieces: list[Piece] = []
        index = 0
        while index < len(elements):
            here = f"{at}.elements[{index}]"
            if elements[index].get("type") != "any_text" or index + 1 == len(elements):
                pieces.append(self.piece(elements[index], here))
                index += 1
                continue
            if elements[index + 1].get("type") not in ("const_string", "token"):
                raise _error(
                    here, "any_text must be last, or stand before a const_string or a token", construct="any_text"
                )
            self._any_text(elements[index], here)
            marker = self.piece(elements[index + 1], f"{at}.elements[{index + 1}]")
            pieces.append(self._lark.until(marker, _texts(elements[index], "excludes", here)))
            index += 2
        return self._lark.sequence(pieces)

    def _or(self, raw: Format, at: str) -> Piece:
        elements = _list(raw, "elements", at, dict)
        return self._lark.either([self.piece(element, f"{at}.elements[{n}]") for n, element in enumerate(elements)])

    def _many(self, raw: Format, at: str, low: int, high: int | None) -> Piece:
        return self._lark.repeat(self.piece(raw.get("content"), f"{at}.content"), low, high)

    def _repeat(self, raw: Format, at: str) -> Piece:
        low, high = _get(raw, "min", int, at), _get(raw, "max", int, at)
        if not 0 <= low <= MAX_REPEATS or not (high == -1 or low <= high <= MAX_REPEATS):
            raise _error(at, f"repeat: min and max must be in order and at most {MAX_REPEATS}", construct="repeat")
        return self._many(raw, at, low, None if high == -1 else high)

    def _tag(self, raw: Format, at: str) -> Piece:
        begin = self._marker(raw.get("begin"), f"{at}.begin")
        return self._lark.sequence([begin, self._body(raw, at)])

    def _body(self, raw: Format, at: str) -> Piece:
        """What follows the beginning of a tag: content and end. Free content ends at the first end marker."""
        ends = raw.get("end")
        ends = ends if isinstance(ends, list) else [ends]
        end = self._lark.either([self._marker(entry, f"{at}.end") for entry in ends] or [NOTHING])
        content = raw.get("content")
        if isinstance(content, dict) and content.get("type") == "any_text" and end is not NOTHING:
            self._any_text(content, f"{at}.content")
            return self._lark.until(end, _texts(content, "excludes", f"{at}.content"))
        return self._lark.sequence([self.piece(content, f"{at}.content"), end])

    def _marker(self, raw: Any, at: str) -> Piece:
        if isinstance(raw, dict):
            return self.piece(raw, at)
        if not isinstance(raw, str):
            raise _error(at, "must be a string")
        return self._lark.literal(raw)

    # -- tags in text ------------------------------------------------------------------------------------------------

    def _triggered_tags(self, raw: Format, at: str) -> Piece:
        """Free text, in which a trigger opens a tag; with `at_least_one`, a tag at once."""
        triggers = _texts(raw, "triggers", at)
        tags = _list(raw, "tags", at, dict)
        if not triggers:
            raise _error(f"{at}.triggers", "must not be empty")
        by_trigger: dict[str, list[Piece]] = {trigger: [] for trigger in triggers}
        for index, tag in enumerate(tags):
            here = f"{at}.tags[{index}]"
            begin = _get(tag, "begin", str, here)
            trigger = max((t for t in triggers if begin.startswith(t)), key=len, default=None)
            if trigger is None:
                raise _error(f"{here}.begin", f"{begin!r} begins with none of the triggers", construct=begin)
            rest = self._lark.literal(begin[len(trigger) :])
            by_trigger[trigger].append(self._lark.sequence([rest, self._body(tag, here)]))
        excluded = _texts(raw, "excludes", at)
        opened = {t: self._lark.rule(self._lark.either(bodies)) for t, bodies in by_trigger.items() if bodies}
        literals = {trigger: self._lark.literal(trigger) for trigger in opened}
        at_once = [self._lark.sequence([literals[t], body]) for t, body in opened.items()]
        later = [self._lark.sequence([self._lark.until(literals[t], excluded), body]) for t, body in opened.items()]
        return self._arrange(raw, self._lark.either(at_once), self._lark.either(later), self._lark.free(excluded))

    def _arrange(self, raw: Format, at_once: Piece, later: Piece, tail: Piece) -> Piece:
        lark = self._lark
        first, more = raw.get("at_least_one"), not raw.get("stop_after_first")
        if first:
            return lark.sequence([at_once, lark.repeat(later, 0, None), tail]) if more else at_once
        return lark.sequence([lark.repeat(later, 0, None), tail]) if more else lark.either([later, lark.rule(tail)])

    def _tags_with_separator(self, raw: Format, at: str) -> Piece:
        lark = self._lark
        tags = _list(raw, "tags", at, dict)
        tag = lark.rule(lark.either([self._tag(entry, f"{at}.tags[{n}]") for n, entry in enumerate(tags)]))
        if raw.get("stop_after_first"):
            row = tag
        else:
            again = lark.sequence([lark.literal(_get(raw, "separator", str, at)), tag])
            row = lark.sequence([tag, lark.repeat(again, 0, None)])
        return row if raw.get("at_least_one") else lark.repeat(row, 0, 1)


# -- fields ----------------------------------------------------------------------------------------------------------


def _get(raw: Format, key: str, kind: Any, at: str) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, int | str)):
        raise _error(f"{at}.{key}", "is missing or of the wrong type", construct=key)
    return value


def _list(raw: Format, key: str, at: str, kind: type) -> list[Any]:
    values = _get(raw, key, list, at)
    if not values or len(values) > MAX_TAGS:
        raise _error(f"{at}.{key}", f"must have 1 to {MAX_TAGS} entries", construct=key)
    if not all(isinstance(value, kind) for value in values):
        raise _error(f"{at}.{key}", "holds an entry of the wrong type", construct=key)
    return values


def _texts(raw: Format, key: str, at: str) -> Sequence[str]:
    """A list of markers, which may be absent."""
    values = _list(raw, key, at, str) if raw.get(key) else []
    if any(not 0 < len(value.encode()) <= MAX_MARKER for value in values):
        raise _error(f"{at}.{key}", f"must hold strings of 1 to {MAX_MARKER} bytes", construct=key)
    return values


def _error(at: str, what: str, construct: str | None = None) -> GrammarError:
    return GrammarError(f"{at}: {what}", param=at, construct=construct)
