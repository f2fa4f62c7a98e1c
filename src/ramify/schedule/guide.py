"""Guides: what limits the tokens that a request may say next, such as a grammar. One per request, none by default.

A guide knows only tokens that are taken for good. It is told of each as it is committed, it may know some beforehand
(`forced`), and before a step is sampled it is asked which tokens are allowed. What that takes is found out for all
requests of a step at once (`look`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        """At most `room` tokens that have to follow, in order, and that `take` has not been told of. Comes after
        `Guides.look`.
        """


@dataclass(frozen=True, slots=True)
class Guided:
    """Row `index` of a plan samples for `request`. `known`: no choice was left, and the guide has been told of it."""

    index: int
    request: Request
    known: int | None


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the rows of a step may say. By id: how requests end for which that could not be said, and which have to go
    back to the queue, where the gates hold them until it can be. Neither are asked about again.
    """

    masks: Masks | None = None
    ended: Mapping[str, Finish] = field(default_factory=dict)
    again: Sequence[str] = ()


class Guides(Protocol):
    """Makes guides and asks them; the one place that knows what a constraint looks like."""

    def guide(self, submit: Submit) -> Guide:
        """The guide of a new request; raises `UserError` if what it asks for cannot be."""

    def look(self, requests: Sequence[Request]) -> None:
        """Find out what may follow in each of these, which all have guides."""

    def masks(self, rows: Sequence[Guided]) -> Allowed:
        """What rows of a plan may say."""

    def warm(self) -> None:
        """Get ready in the background for the first request with a guide."""

    def close(self) -> None:
        """Leave no thread and no process behind."""


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

    def look(self, requests: Sequence[Request]) -> None: ...

    def masks(self, rows: Sequence[Guided]) -> Allowed:
        return Allowed()

    def warm(self) -> None: ...

    def close(self) -> None: ...
