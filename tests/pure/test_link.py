"""An API worker's way to an engine that comes and goes, and that no request is lost while it does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.core.errors import EngineDead, Overloaded, UserError
from ramify.server.keeper import Keeper
from ramify.server.link import Link
from ramify.wire.notices import EngineNews, Phase


class Client:
    """What a link asks of one. `start` says of which engine it is."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.died: str | None = None
        self.ready = asyncio.Event()

    def lose(self, reason: str) -> None:
        self.died = self.died or reason


class Parent:
    def __init__(self, log: list[Any] | None = None) -> None:
        self.said: list[Any] = [] if log is None else log

    def want(self) -> None:
        self.said.append("want")

    def unwant(self) -> None:
        self.said.append("unwant")

    def let_go(self, start: int, free: bool) -> None:
        self.said.append((start, free))


class Desk:
    """A link, and the parent that it talks to."""

    def __init__(self, lazy: bool = True, most: int = 10) -> None:
        self.parent = Parent()
        self.clients: list[Client] = []
        self.link = Link("m", self._connect, self.parent, lazy=lazy, most=most)  # type: ignore[arg-type]

    def _connect(self, start: int) -> Client:
        self.clients.append(Client(start))
        return self.clients[-1]

    def hear(self, phase: Phase, start: int = 1, why: str = "") -> None:
        self.link.hear(EngineNews(0, start, phase, why))

    def meet(self) -> None:
        self.clients[-1].ready.set()
        self.link.changed()

    async def asking(self, count: int = 1) -> list[asyncio.Task[None]]:
        tasks = [asyncio.ensure_future(self.link.engine()) for _ in range(count)]
        await settle()
        return tasks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def failure(of: Awaitable[Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        await of
    return caught.value


@in_a_loop
async def test_the_first_who_waits_asks_for_the_engine_and_all_get_it() -> None:
    desk = Desk()
    tasks = await desk.asking(3)
    assert desk.parent.said == ["want"]
    desk.hear("starting")
    await settle()
    assert not any(task.done() for task in tasks)
    desk.meet()
    await asyncio.gather(*tasks)
    assert desk.link.client is desk.clients[0]  # type: ignore[comparison-overlap]


@in_a_loop
async def test_a_start_that_fails_answers_who_waits_and_the_next_asks_again() -> None:
    desk = Desk()
    tasks = await desk.asking(2)
    desk.hear("starting")
    desk.hear("asleep", why="config.json is gone")
    for task in tasks:
        error = await failure(task)
        assert (error.status, error.code) == (503, "model_failed")
        assert "config.json is gone" in error.message
    (again,) = await desk.asking()
    assert desk.parent.said == ["want", "want"]
    desk.hear("resting", why="config.json is gone")
    desk.hear("starting", 2)
    desk.meet()
    await again


@in_a_loop
async def test_only_so_many_wait() -> None:
    desk = Desk(most=2)
    waiting = await desk.asking(2)
    (refused,) = await desk.asking()
    assert isinstance(await failure(refused), Overloaded)
    waiting[0].cancel()
    await settle()
    (third,) = await desk.asking()
    assert not third.done()
    for task in (waiting[1], third):
        task.cancel()


@in_a_loop
async def test_a_server_that_begins_lets_nobody_wait() -> None:
    desk = Desk(lazy=False)
    desk.hear("starting")
    assert isinstance(await failure(desk.link.engine()), Overloaded)
    desk.meet()
    await desk.link.engine()


@in_a_loop
async def test_who_comes_while_an_engine_is_started_again_waits() -> None:
    desk = Desk(lazy=False)
    desk.hear("starting")
    desk.meet()
    desk.clients[0].died = "it said so itself"
    (early,) = await desk.asking()
    desk.hear("resting", why="it died")
    (late,) = await desk.asking()
    assert isinstance(await failure(as_coroutine(desk.link.check)), EngineDead)
    desk.hear("starting", 2)
    desk.meet()
    await asyncio.gather(early, late)
    assert desk.link.starts == 2
    assert desk.parent.said == []


async def as_coroutine(check: Callable[[], None]) -> None:
    check()


@in_a_loop
async def test_who_is_given_up_is_not_waited_for() -> None:
    desk = Desk()
    (waiting,) = await desk.asking()
    desk.hear("given up", 6, "it ended 6 times")
    assert "6 times" in (await failure(waiting)).message
    assert "6 times" in (await failure(desk.link.engine())).message
    assert desk.parent.said == ["want"]


@in_a_loop
async def test_what_is_held_does_not_leave() -> None:
    desk = Desk()
    desk.hear("starting")
    desk.meet()
    with desk.link.hold():
        desk.hear("leaving")
        desk.link.check()
        await desk.link.engine()
    desk.hear("ready")
    await desk.link.engine()
    desk.hear("leaving")
    assert desk.parent.said == [(1, False), (1, True)]
    (waiting,) = await desk.asking()
    assert desk.parent.said[2:] == ["want"]
    desk.hear("ready")  # another worker held it
    await waiting


@in_a_loop
async def test_draining_ends_waiting_and_takes_nothing_new() -> None:
    desk = Desk()
    (waiting,) = await desk.asking()
    desk.link.drain()
    assert isinstance(await failure(waiting), Overloaded)
    assert isinstance(await failure(desk.link.engine()), Overloaded)


@in_a_loop
async def test_an_engine_that_was_gone_before_it_was_met() -> None:
    desk = Desk()

    def gone(start: int) -> Client:
        raise FileNotFoundError

    desk.link._connect = gone  # type: ignore[assignment]
    (waiting,) = await desk.asking()
    desk.hear("starting")
    assert not desk.link.usable
    desk.link._connect = desk._connect  # type: ignore[assignment]
    desk.hear("starting", 2)
    desk.meet()
    await waiting


@in_a_loop
async def test_a_worker_that_was_started_again_wakes_an_engine_that_sleeps() -> None:
    """Even one that the server began with, which this worker never saw."""
    desk = Desk(lazy=False)
    desk.hear("asleep", 3)
    assert desk.link.settled
    (waiting,) = await desk.asking()
    assert desk.parent.said == ["want"]
    desk.hear("starting", 4)
    await settle()
    assert not waiting.done()
    desk.meet()
    await waiting


@in_a_loop
async def test_leaving_by_order() -> None:
    desk = Desk()
    desk.hear("starting")
    desk.hear("ready")
    desk.meet()
    leaving = asyncio.ensure_future(desk.link.leave())
    await settle()
    assert desk.parent.said == ["unwant"]
    desk.hear("leaving")
    desk.hear("ready")
    assert (await failure(leaving)).code == "model_in_use"
    leaving = asyncio.ensure_future(desk.link.leave())
    await settle()
    desk.hear("leaving")
    desk.hear("asleep")
    await leaving
    await desk.link.leave()


# -- keeper and links together -----------------------------------------------------------------------------------------


class House:
    """A keeper, two workers, and queues between them that deliver when the test says so."""

    def __init__(self) -> None:
        self.alive = 0  # the start of the engine that there is
        self.stopped: set[int] = set()
        self.to_parent: deque[tuple[Any, ...]] = deque()
        self.to_worker: list[deque[EngineNews]] = [deque(), deque()]
        self.clients: list[list[Client]] = [[], []]
        self.open: dict[asyncio.Future[None], int] = {}  # requests at an engine, by the start of it
        self.links = [self._link(origin) for origin in range(2)]
        self.keeper = Keeper("m", self, lazy=True, workers=2)
        self.tasks: list[asyncio.Task[None]] = []
        self.reading: deque[asyncio.Future[None]] = deque()  # requests on their way to an engine

    def _link(self, origin: int) -> Link:
        house = self

        class Voice(Parent):
            def want(self) -> None:
                house.to_parent.append(("want",))

            def let_go(self, start: int, free: bool) -> None:
                house.to_parent.append(("let go", origin, start, free))

        def connect(start: int) -> Client:
            house.clients[origin].append(Client(start))
            return house.clients[origin][-1]

        return Link("m", connect, Voice(), lazy=True, most=100)  # type: ignore[arg-type]

    # hands of the keeper

    def start(self, number: int) -> None:
        assert not self.alive
        self.alive = number

    def stop(self) -> None:
        assert self.alive not in self.open.values(), "an engine was stopped with a request open"
        self.stopped.add(self.alive)

    def kill(self) -> None: ...

    def publish(self) -> None:
        for queue in self.to_worker:
            queue.append(EngineNews(0, self.keeper.number, self.keeper.phase, self.keeper.why))

    # what happens

    async def request(self, origin: int) -> None:
        link = self.links[origin]
        with link.hold():
            await link.engine()
            read = asyncio.get_running_loop().create_future()
            self.reading.append(read)
            await read
            link.check()
            start = link.client.start  # type: ignore[attr-defined]
            assert start not in self.stopped, "a request was sent to an engine that was told to stop"
            answer = asyncio.get_running_loop().create_future()
            self.open[answer] = start
            await answer

    def happens(self, event: str, origin: int) -> None:
        if event == "request":
            self.tasks.append(asyncio.ensure_future(self.request(origin)))
        elif event == "read" and self.reading:
            self.reading.popleft().set_result(None)
        elif event == "answer" and self.open:
            answer = next(iter(self.open))
            del self.open[answer]
            answer.set_result(None)
        elif event == "parent" and self.to_parent:
            kind, *rest = self.to_parent.popleft()
            {"want": self.keeper.want, "let go": self.keeper.let_go}[kind](*rest)
        elif event == "worker" and self.to_worker[origin]:
            self.links[origin].hear(self.to_worker[origin].popleft())
        elif event == "ready" and self.alive:
            self.keeper.ready(self.alive)
        elif event == "meet" and self.alive and self.clients[origin] and self.clients[origin][-1].start == self.alive:
            self.clients[origin][-1].ready.set()
            self.links[origin].changed()
        elif event == "idle" and self.alive and self.alive not in self.open.values():
            self.keeper.idle(self.alive)
        elif event == "end" and self.alive in self.stopped:
            self.alive = 0
            self.keeper.ended("")

    async def finish(self) -> None:
        """Everything on its way arrives, and nobody is idle any more."""
        for _ in range(300):
            for event in ("worker", "meet"):
                self.happens(event, 0)
                self.happens(event, 1)
            for event in ("parent", "ready", "end", "read", "answer"):
                self.happens(event, 0)
            await settle()


HAPPENS = ("request", "read", "answer", "parent", "worker", "ready", "meet", "idle", "end")


@given(st.lists(st.tuples(st.sampled_from(HAPPENS), st.integers(0, 1)), max_size=80))
@settings(deadline=None, max_examples=100)
def test_no_request_is_lost_while_engines_leave_and_come(events: list[tuple[str, int]]) -> None:
    async def play() -> None:
        house = House()
        for event, origin in events:
            house.happens(event, origin)
            await settle()
        await house.finish()
        assert all(task.done() for task in house.tasks), "somebody waits for ever"
        for task in house.tasks:
            task.result()

    asyncio.run(play())
