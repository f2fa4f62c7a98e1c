"""Orders that cannot be answered yet: tried again at every step, until they can be or their time is up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ramify.core.errors import UserError
from ramify.wire.channel import EngineEnd
from ramify.wire.messages import Answer, Control

log = logging.getLogger(__name__)

POLL = 0.02

Work = Callable[[], Any]


class NotYet(Exception):
    """Not now, but perhaps within `seconds`; the text is the error if not.

    `again` is what to try then, where that is not the same once more. `poll`: it may come without anything else
    happening in the loop.
    """

    def __init__(self, text: str, seconds: float, *, again: Work | None = None, poll: bool = False) -> None:
        super().__init__(text)
        self.seconds, self.again, self.poll = seconds, again, poll


def when_done(future: Future[Any], text: str, seconds: float) -> Any:
    """What a future gives; `ValueError` where it failed."""
    if not future.done():
        raise NotYet(text, seconds, again=lambda: when_done(future, text, seconds), poll=True)
    error = future.exception()
    if error is not None and not isinstance(error, ValueError):
        log.error("an order failed", exc_info=error)
        raise ValueError(f"it failed: {error}")
    return future.result()


@dataclass(frozen=True)
class _Late:
    control: Control
    work: Work
    until: float
    poll: bool


class Waiting:
    """Answers orders, the late ones included."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._late: list[_Late] = []

    def answer(self, channel: EngineEnd, control: Control, work: Work) -> None:
        """The first try."""
        self._try(channel, control, work, None)

    def tick(self, channel: EngineEnd) -> None:
        """All the other tries."""
        if self._late:
            late, self._late = self._late, []
            for one in late:
                self._try(channel, one.control, one.work, one.until)

    def patience(self) -> float | None:
        """Seconds until a try is due even if nothing happens; None: never."""
        now = self._clock()
        return min((POLL if one.poll else max(one.until - now, 0.0) for one in self._late), default=None)

    def _try(self, channel: EngineEnd, control: Control, work: Work, until: float | None) -> None:
        try:
            answer = Answer(control.ticket, work())
        except UserError as e:
            answer = Answer(control.ticket, error=e.message, status=e.status)
        except ValueError as e:
            answer = Answer(control.ticket, error=str(e))
        except NotYet as e:
            until = self._clock() + e.seconds if until is None else until
            if self._clock() < until:
                self._late.append(_Late(control, e.again or work, until, e.poll))
                return
            answer = Answer(control.ticket, error=str(e))
        channel.send(control.origin, answer)
