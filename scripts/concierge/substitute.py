"""Consistent substitution of values in a task dialogue: texts, calls and results change together.

Values become placeholders first, the longest first, so that a city inside a hotel's name is not touched twice. A value
is only exchanged when every mention of it was found; a user who shortens a name keeps the original.
"""

from __future__ import annotations

import copy
import datetime
import random
import re
from typing import Any

from entities import KIND_OF_SLOT, new_value

Dialogue = dict[str, Any]

FIRST_DAY = datetime.date(2019, 3, 1)
MONTHS = [datetime.date(2019, m, 1).strftime("%B") for m in range(1, 13)]
WEEKDAYS = [datetime.date(2019, 3, 4 + d).strftime("%A") for d in range(7)]
ALIASES = {
    "San Francisco": r"\bsf\b|frisco|san fran\b|\bsfo\b",
    "New York": r"\bny\b|\bnyc\b|big apple|new york city",
    "Los Angeles": r"\bla\b|\blax\b",
    "Philadelphia": r"philly|\bphl\b",
    "Chicago": r"chi-town|chi town",
    "Las Vegas": r"vegas|sin city",
    "Washington D.C.": r"washington|\bdc\b",
    "Washington": r"\bdc\b|d\.c\.",
    "Atlanta": r"\batl\b",
    "San Diego": r"\bsd\b",
    "San Jose": r"\bsj\b",
    "Portland": r"\bpdx\b",
}
GENERIC = set(
    """about airport apartment apartments arena avenue barber cafe care center central cinema city club court dental
    drive family garden gardens grand grill hair hall health hotel hotels house inn international kitchen lake
    lane little live love medical movie museum music north park place plaza resort restaurant road salon shop
    south square stadium station street suites summer theater theatre time valley village west east with your
    this that have from will little after""".split()
)
CLOCK_DATES = re.compile(
    r"\b(first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|february"
    r"|april|weekend|next week|this week|week from)\b|\d/\d|\bthe \d{1,2}\b(?!(st|nd|rd|th|:))",
    re.IGNORECASE,
)


def _values(dialogue: Dialogue) -> dict[str, str]:
    """Return the exchangeable values of a dialogue with their kinds."""
    found: dict[str, str] = {}
    for turn in dialogue["turns"]:
        records = [turn["call"]["arguments"], *turn["results"]] if "call" in turn else []
        for slot, value in (item for record in records for item in record.items()):
            kind = KIND_OF_SLOT.get(slot)
            if kind and _exchangeable(kind, value):
                found.setdefault(value, _sharper_kind(kind, value))
    return found


def _sharper_kind(kind: str, value: str) -> str:
    """A taxi's destination is a city slot by name but often holds an address."""
    return "address" if kind == "city" and value[0].isdigit() else kind


def _exchangeable(kind: str, value: str) -> bool:
    """Leave alone what is too short to be found with certainty, and the user's own words for a calendar entry."""
    if value == "dontcare" or (value.islower() and kind == "event"):
        return False
    return len(value.replace(".", "")) >= 3 if kind == "amount" else len(value) >= 4


def _pattern(value: str, kind: str) -> re.Pattern[str]:
    """Return the expression that finds a value in running text."""
    core = re.escape(value)
    if kind == "amount" and float(value) >= 1000:
        whole, dot, rest = value.partition(".")
        core = f"(?:{core}|{re.escape(f'{int(whole):,}{dot}{rest}')})"
    return re.compile(rf"(?<![\w.]){core}(?!\w|\.\d|,\d)", re.IGNORECASE)


def _mark(text: str, patterns: list[re.Pattern[str]]) -> str:
    """Replace every value by its placeholder; the letter says how it was written (l: lower case, c: comma)."""
    for index, pattern in enumerate(patterns):

        def placeholder(match: re.Match[str], index: int = index) -> str:
            found = match.group()
            style = "l" if found.islower() else "c" if "," in found and found[0].isdigit() else "n"
            return f"\x01{index}{style}\x02"

        text = pattern.sub(placeholder, text)
    return text


def _leftover(value: str, kind: str, marked: str) -> bool:
    """Tell whether a part of the value is still mentioned outside its placeholders."""
    if kind in ("amount", "phone"):
        digits = re.sub(r"\D", "", value)
        return kind == "phone" and digits[-4:] in marked
    words = [w for w in re.findall(r"[a-z]+", value.lower()) if len(w) >= 4 and w not in GENERIC]
    if any(re.search(rf"\b{word}", marked, re.IGNORECASE) for word in words):
        return True
    return bool(value in ALIASES and re.search(ALIASES[value], marked, re.IGNORECASE))


def _fill(text: str, values: list[str]) -> str:
    """Put values in place of the placeholders."""

    def value_for(match: re.Match[str]) -> str:
        value = values[int(match.group(1))]
        if match.group(2) == "c" and value.replace(".", "").isdigit():
            return f"{float(value):,.2f}" if "." in value else f"{int(value):,}"
        return value.lower() if match.group(2) == "l" else value

    return re.sub(r"\x01(\d+)([lcn])\x02", value_for, text)


def _map_texts(dialogue: Dialogue, change: Any) -> None:
    """Apply a function to every text and value of a dialogue, in place."""
    for turn in dialogue["turns"]:
        turn["text"] = change(turn["text"])
        if "call" in turn:
            turn["call"]["arguments"] = {k: change(v) for k, v in turn["call"]["arguments"].items()}
            turn["results"] = [{k: change(v) for k, v in record.items()} for record in turn["results"]]


def _ordinal(day: int) -> str:
    """Return 1st, 2nd, 3rd ..."""
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _pick_shift(text: str, rng: random.Random) -> int:
    """Return by how many days to move the dialogue; 0 when its wording does not allow it."""
    if CLOCK_DATES.search(text):
        return 0
    month = datetime.date(rng.randint(2019, 2027), rng.randint(1, 12), rng.randint(1, 15))
    shift = (month - FIRST_DAY).days
    return shift - shift % 7 if "week" in text.lower() else shift


def _shift_words(text: str, shift: int) -> str:
    """Move the dates in running text."""
    month = MONTHS[(FIRST_DAY + datetime.timedelta(shift)).month - 1]
    delta = (FIRST_DAY + datetime.timedelta(shift)).day - 1

    def weekday(match: re.Match[str]) -> str:
        moved = WEEKDAYS[(WEEKDAYS.index(match.group().capitalize()) + shift) % 7]
        return moved if match.group()[0].isupper() else moved.lower()

    text = re.sub(
        r"\b(\d{1,2})(st|nd|rd|th)\b(?! (st|street|ave|floor))", lambda m: _ordinal(int(m[1]) + delta), text, flags=re.I
    )
    text = re.sub(r"\b(march )(\d{1,2})\b(?![:\d])", lambda m: f"{m[1]}{int(m[2]) + delta}", text, flags=re.I)
    text = re.sub(r"\b(\d{1,2})( march)\b", lambda m: f"{int(m[1]) + delta}{m[2]}", text, flags=re.I)
    text = re.sub(r"\bMarch\b", month, text)
    text = re.sub(r"\bmarch\b", month.lower(), text)
    return re.sub(r"\b(" + "|".join(WEEKDAYS) + r")\b", weekday, text, flags=re.I)


def _shift_value(text: str, shift: int) -> str:
    """Move an ISO date."""
    moved = lambda m: str(datetime.date.fromisoformat(m.group()) + datetime.timedelta(shift))  # noqa: E731
    return re.sub(r"\b2019-03-\d\d\b", moved, text)


def move_dates(dialogue: Dialogue, rng: random.Random) -> datetime.date | None:
    """Move a (marked) dialogue to another date, in place; return its new first day, or None when it stays."""
    words = "\n".join(turn["text"] for turn in dialogue["turns"])
    shift = _pick_shift(words, rng)
    today = FIRST_DAY + datetime.timedelta(shift)
    if not shift or today.day > 15:
        return None
    for turn in dialogue["turns"]:
        turn["text"] = _shift_words(turn["text"], shift)
        if "call" in turn:
            turn["call"]["arguments"] = {k: _shift_value(v, shift) for k, v in turn["call"]["arguments"].items()}
            turn["results"] = [{k: _shift_value(v, shift) for k, v in r.items()} for r in turn["results"]]
    return today


def substitute(original: Dialogue, rng: random.Random, redate: bool) -> tuple[Dialogue, datetime.date | None]:
    """Return a copy of a dialogue with other names, places and numbers, and its date if that was moved."""
    dialogue = copy.deepcopy(original)
    kinds = _values(dialogue)
    olds = sorted(kinds, key=len, reverse=True)
    patterns = [_pattern(old, kinds[old]) for old in olds]
    _map_texts(dialogue, lambda text: _mark(text, patterns))
    marked = "\n".join(turn["text"] for turn in dialogue["turns"])
    news = [old if _leftover(old, kinds[old], marked) else new_value(kinds[old], old, rng) for old in olds]
    today = move_dates(dialogue, rng) if redate else None
    _map_texts(dialogue, lambda text: _fill(text, news))
    return dialogue, today
