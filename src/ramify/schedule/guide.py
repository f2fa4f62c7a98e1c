"""Guides: what limits the tokens that a request may say next, such as a grammar. One per request, none by default.

A guide knows only tokens that are taken for good. It is told of each as it is committed, it may know some beforehand
(`forced`), and before a step is sampled it is asked which tokens are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ramify.core.finish import Finish
from ramify.wire.masks import Masks

if TYPE_CHECKING:
    from ramify.schedule.request import Request
    from ramify.wire.messages import Submit


class Guide(Protocol):
    """Of one request."""

    def take(self, token: int) -> bool:
        """The request has said `token`. True if nothing may follow it."""

    def forced(self, room: int) -> Sequence[int]:
        """At most `room` tokens that have to follow, in order, and that `take` has not been told of."""


@dataclass(frozen=True, slots=True)
class Guided:
    """Row `index` of a plan samples for `request`. `known`: no choice was left, and the guide has been told of it."""

    index: int
    request: Request
    known: int | None


class Guides(Protocol):
    """Makes guides and asks them; the one place that knows what a constraint looks like."""

    def guide(self, submit: Submit) -> Guide:
        """The guide of a new request; raises `UserError` if what it asks for cannot be."""

    def masks(self, rows: Sequence[Guided]) -> tuple[Masks | None, dict[str, Finish]]:
        """Allowed tokens for rows of a plan; and, by id, how requests end for which that could not be said."""


class Free:
    """Anything goes."""

    def take(self, token: int) -> bool:
        return False

    def forced(self, room: int) -> Sequence[int]:
        return ()


FREE = Free()


class NoGuides:
    def guide(self, submit: Submit) -> Guide:
        return FREE

    def masks(self, rows: Sequence[Guided]) -> tuple[Masks | None, dict[str, Finish]]:
        return None, {}
