"""Adapters: small weights that a request is computed with beside the model's own. One per request, none by default.

The scheduler knows no weights. It asks for a request's adapter when the request comes, keys its prefixes by it, and
before the request runs has it put into one of a few slots, where the worker computes with it from that plan on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ramify.core.errors import BadRequest
from ramify.wire.plan import Moved

if TYPE_CHECKING:
    from ramify.schedule.request import Request
    from ramify.wire.messages import Submit

NO_SLOT = -1


class Adapter(Protocol):
    """Of one request."""

    def salted(self, salt: str) -> str:
        """The salt of its prefixes: what one adapter computed, no other and nobody without finds."""


class Adapters(Protocol):
    """Finds adapters by name, and says in which slot each stands."""

    def adapter(self, submit: Submit) -> Adapter:
        """The adapter of a new request; raises `UserError` if there is none of that name."""

    def enter(self, adapter: Adapter, running: Sequence[Request]) -> int | None:
        """The slot of an adapter that is needed now, which may take that of one that no running request needs; None:
        there is no such slot.
        """

    def moved(self) -> list[Moved]:
        """Which adapters have come into slots since this was asked last."""

    def close(self) -> None:
        """Leave no thread behind."""


class Bare:
    """None: the model alone."""

    def salted(self, salt: str) -> str:
        return salt


BARE = Bare()


class NoAdapters:
    def adapter(self, submit: Submit) -> Adapter:
        if submit.adapter:
            raise BadRequest(
                f"the adapter {submit.adapter!r}: this server has none", param="lora_path", code="adapters_off"
            )
        return BARE

    def enter(self, adapter: Adapter, running: Sequence[Request]) -> int | None:
        return NO_SLOT

    def moved(self) -> list[Moved]:
        return []

    def close(self) -> None: ...
