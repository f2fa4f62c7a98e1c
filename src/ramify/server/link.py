"""An API worker's way to one model's engine: it may not be there yet, may be gone, and may be another one later."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from ramify.core.errors import BadRequest, EngineDead, Overloaded, UserError
from ramify.engine.client import Client
from ramify.wire.notices import EngineNews, Phase

log = logging.getLogger(__name__)

LONGEST_START = 600.0  # seconds that a request waits for an engine
LONGEST_LEAVE = 60.0
DIED = "the engine has died"
LEFT = "the engine has ended"
DRAINING = "The server is shutting down."


class ToParent(Protocol):
    """What a link says to the parent."""

    def want(self) -> None: ...

    def unwant(self) -> None: ...

    def let_go(self, start: int, free: bool) -> None: ...


class Link:
    """Lives in the event loop of its worker, and everything here is called there. `connect` makes the client of an
    engine by the number of its start; `most` requests may wait for one.

    An engine leaves only when no worker holds it: `hold` covers a request from before it is sent until its answer is.
    """

    def __init__(self, name: str, connect: Callable[[int], Client], parent: ToParent, *, lazy: bool, most: int) -> None:
        self.name, self.lazy = name, lazy
        self.phase: Phase = "asleep" if lazy else "starting"
        self.starts = 0
        self.why = ""
        self._connect, self._parent, self._most = connect, parent, most
        self._client: Client | None = None
        self._met = 0  # which start the client is for
        self.proved = False  # an engine was ready here once
        self._held = 0
        self._asked = False  # the parent was told in this phase that it is wanted
        self._waiting: set[asyncio.Future[None]] = set()
        self._draining = False
        # Counted, since who waits may look only after the next news: starts that failed, and times that the engine was
        # about to leave and was held.
        self._failures, self._failure = 0, ""
        self._stayed = 0

    # -- for handlers ------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Requests can be sent."""
        client = self._client
        return (
            self.phase in ("starting", "ready") and client is not None and client.died is None and client.ready.is_set()
        )

    @property
    def client(self) -> Client:
        """Of the engine that there is, or that there was last; raises where there was none."""
        if self._client is None:
            raise EngineDead(f"{self.name} is not loaded")
        return self._client

    @property
    def clients(self) -> list[Client]:
        return [] if self._client is None else [self._client]

    @property
    def settled(self) -> bool:
        """An engine is here, or none has to be."""
        return self.lazy or self.usable or self.phase in ("asleep", "given up")

    @property
    def _begins(self) -> bool:
        """The server itself does, and this engine with it."""
        return not self.lazy and not self.proved and self.phase == "starting" and self.starts <= 1

    def check(self) -> None:
        """Raises where no request can be sent now."""
        if self._draining:
            raise Overloaded(DRAINING, retry_after=5)
        if self.phase == "given up":
            raise EngineDead(self.why)
        if self._client is not None and self._client.died is not None:
            raise EngineDead(self._client.died)
        if not self.usable:
            raise self._not_yet()

    def _not_yet(self) -> UserError:
        return Overloaded("The model is still loading.", retry_after=5)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    async def engine(self) -> None:
        """Until there is an engine that takes requests; asks for it where it sleeps. One that was never ready and is
        being started anyway is not waited for: a server that begins says so, and balancers go elsewhere.
        """
        until, failures = asyncio.get_running_loop().time() + LONGEST_START, self._failures
        while not self.usable:
            if self._failures != failures:
                raise EngineDead(f"{self.name} could not be loaded: {self._failure}", code="model_failed")
            if self._draining or self.phase == "given up":
                self.check()
            if self._begins:
                raise self._not_yet()
            if len(self._waiting) >= self._most:
                raise Overloaded(f"too many requests wait for {self.name} to be loaded", retry_after=5)
            if self.phase in ("asleep", "leaving") and not self._asked:
                self._asked = True
                self._parent.want()
            await self._change(until)

    async def leave(self) -> None:
        """Until the engine is gone. Raises `BadRequest` where a request is open there."""
        until, stayed = asyncio.get_running_loop().time() + LONGEST_LEAVE, self._stayed
        if self.phase == "ready":
            self._parent.unwant()
        while self.phase != "asleep":
            if self._stayed != stayed or self.phase not in ("ready", "leaving"):
                raise BadRequest(f"{self.name} is in use", code="model_in_use")
            await self._change(until)

    async def _change(self, until: float) -> None:
        """Until anything is different."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout_at(until):
                await waiter
        except TimeoutError:
            raise Overloaded(f"{self.name} takes too long", retry_after=10) from None
        finally:
            self._waiting.discard(waiter)

    def _stir(self) -> None:
        """Whoever waits looks again."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- for the parent and the client ---------------------------------------------------------------------------------

    def hear(self, news: EngineNews) -> None:
        self._stayed += self.phase == "leaving" and news.phase == "ready"
        self.phase, self.starts, self.why, self._asked = news.phase, news.start, news.why, False
        if news.phase in ("asleep", "resting", "given up"):
            self._lose(LEFT if news.phase == "asleep" and not news.why else DIED)
        elif news.start != self._met:
            self._lose(DIED)
            self._meet(news.start)
        if news.phase == "leaving":
            self._let_go(news.start)
        if news.phase == "asleep" and news.why:
            self._failures, self._failure = self._failures + 1, news.why
        self._stir()

    def _let_go(self, start: int) -> None:
        """One who holds on keeps the engine for all: it is as ready as before, and requests go on at once."""
        self._parent.let_go(start, free=not self._held)
        if self._held:
            self._stayed += 1
            self.phase = "ready"

    def _meet(self, start: int) -> None:
        self._met = start
        try:
            self._client = self._connect(start)
        except OSError:  # its folder is gone already, and so is it: the next news says so
            log.debug("the engine of %s is gone before it was met", self.name)

    def changed(self) -> None:
        """The client has met its engine, or lost it."""
        self.proved = self.proved or self.usable
        self._stir()

    def _lose(self, reason: str) -> None:
        if self._client is not None and self._client.died is None:
            self._client.lose(reason)

    def drain(self) -> None:
        """Requests that are open go on; nobody waits for an engine any more."""
        self._draining = True
        self._stir()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
