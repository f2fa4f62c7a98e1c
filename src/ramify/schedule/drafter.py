"""Guesses at what a request will say next, verified in the step that computes them (speculative decoding)."""

from __future__ import annotations

from typing import Protocol

from ramify.schedule.request import Request


class Drafter(Protocol):
    def propose(self, request: Request, room: int) -> tuple[int, ...]:
        """At most `room` tokens that may follow all the known ones. Wrong guesses cost time, never a token."""


class NoDrafter:
    def propose(self, request: Request, room: int) -> tuple[int, ...]:
        return ()
