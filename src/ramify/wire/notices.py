"""What the parent and its children tell each other: one JSON object a line, short enough to be written at once.

children -> parent    one pipe for all of them
parent -> API worker  a pipe for each, on which it hears of every engine
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

LONGEST = 512  # bytes that POSIX promises to write to a pipe in one piece

Phase = Literal["asleep", "starting", "ready", "leaving", "resting", "given up"]


class WorkerReady(msgspec.Struct, frozen=True, tag="worker ready"):
    origin: int


class EngineReady(msgspec.Struct, frozen=True, tag="engine ready"):
    """`start` counts the starts of a model's engine, from 1."""

    model: int
    start: int


class EngineFailed(msgspec.Struct, frozen=True, tag="engine failed"):
    """It could not start; its process ends after this."""

    model: int
    start: int
    why: str


class EngineIdle(msgspec.Struct, frozen=True, tag="engine idle"):
    """It has had nothing to do for as long as it may."""

    model: int
    start: int


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """An API worker has a request for a model whose engine is not there."""

    model: int


class Unwanted(msgspec.Struct, frozen=True, tag="unwanted"):
    """Somebody has ordered that an engine should leave when nothing is open."""

    model: int


class LetGo(msgspec.Struct, frozen=True, tag="let go"):
    """An API worker's answer to `leaving`: `free` if it has nothing open there, and will send nothing more."""

    origin: int
    model: int
    start: int
    free: bool


class EngineNews(msgspec.Struct, frozen=True, tag="engine"):
    """Of one model's engine, for API workers. `why` says what went wrong, if something did.

    asleep      there is none; a request that wants it has it started
    starting    from here on it can be connected to
    ready       it serves
    leaving     it ends as soon as every worker has let it go
    resting     it has ended by itself and is started again soon
    given up    it has ended by itself too often
    """

    model: int
    start: int
    phase: Phase
    why: str = ""


ToParent = WorkerReady | EngineReady | EngineFailed | EngineIdle | Wanted | Unwanted | LetGo

_encode = msgspec.json.Encoder().encode
to_parent = msgspec.json.Decoder(ToParent).decode
to_worker = msgspec.json.Decoder(EngineNews).decode


def line_of(notice: ToParent | EngineNews) -> bytes:
    """At most `LONGEST` bytes; a reason that is longer is cut."""
    line = _encode(notice)
    while len(line) >= LONGEST:
        why = notice.why  # type: ignore[union-attr]  # no other field can be so long
        notice = msgspec.structs.replace(notice, why=why[: len(why) * 7 // 8])
        line = _encode(notice)
    return line + b"\n"


class Lines:
    """Takes a pipe apart: what has come of a line is kept until the rest has."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, pipe: int) -> list[bytes] | None:
        """All whole lines that one read gives; None where the other end is closed."""
        found = os.read(pipe, 1 << 16)
        if not found:
            return None
        *lines, self._rest = (self._rest + found).split(b"\n")
        return lines
