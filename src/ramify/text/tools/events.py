"""What a parser says about the text it is fed, in order; joined and put beside each other they are the message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """More of the message's content."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the message's reasoning content."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call: its place among the calls, and its name and id, which are final.

    `start` is where its source begins, in characters of everything fed.
    """

    index: int
    id: str
    name: str
    start: int


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; joined they are JSON."""

    index: int
    json: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """No more of a call will come. Its arguments are a whole JSON object if `complete`; if not, the text was cut or the
    model wrote something else, which follows as `Text`. `end` is where its source ends.
    """

    index: int
    complete: bool
    end: int


Event: TypeAlias = Text | Reasoning | CallStart | CallArguments | CallEnd


def merged(events: list[Event]) -> list[Event]:
    """Neighbours of one kind and call joined into one."""
    groups: list[list[Event]] = []
    for event in events:
        if groups and _joins(groups[-1][0], event):
            groups[-1].append(event)
        else:
            groups.append([event])
    return [_joined(group) for group in groups]


def _joins(one: Event, other: Event) -> bool:
    match one, other:
        case (Text(), Text()) | (Reasoning(), Reasoning()):
            return True
        case CallArguments(index=a), CallArguments(index=b):
            return a == b
    return False


def _joined(group: list[Event]) -> Event:
    match group:
        case [only]:
            return only
        case [CallArguments(index=index), *_]:
            return CallArguments(index, "".join(event.json for event in group if isinstance(event, CallArguments)))
        case [Text(), *_]:
            return Text("".join(event.text for event in group if isinstance(event, Text)))
    return Reasoning("".join(event.text for event in group if isinstance(event, Reasoning)))
