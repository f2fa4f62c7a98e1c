"""Which kernels compute a step, where there are two sets: one is faster, and the numbers of the other, which is called
invariant, are a request's own whatever else is in the step.

A step that holds one row of a request which asked for the invariant set is computed with it, rows of others included.
Prefixes of the two kinds stand apart: what a request of the first kind computes may have come from either set, so that
the second kind must not find it, and a page of the tree has one place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ramify.wire.messages import Submit

if TYPE_CHECKING:
    from ramify.schedule.request import Request


class Modes(Protocol):
    def asked(self, submit: Submit) -> bool:
        """Whether a request is to be computed with the invariant set."""

    def salted(self, salt: str, invariant: bool) -> str:
        """The salt of its prefixes."""

    def of_step(self, requests: Iterable[Request | None]) -> bool:
        """Whether a step of these is computed with the invariant set."""


class OneMode:
    """There is one set, and nothing to ask for."""

    def asked(self, submit: Submit) -> bool:
        return False

    def salted(self, salt: str, invariant: bool) -> str:
        return salt

    def of_step(self, requests: Iterable[Request | None]) -> bool:
        return False


ONE_MODE = OneMode()


class TwoModes:
    """Every salt has a beginning of ours, so that none of a user's names the other kind."""

    def asked(self, submit: Submit) -> bool:
        return submit.invariant

    def salted(self, salt: str, invariant: bool) -> str:
        return ("invariant:" if invariant else "any:") + salt

    def of_step(self, requests: Iterable[Request | None]) -> bool:
        return any(request is not None and request.invariant for request in requests)
