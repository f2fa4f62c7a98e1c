"""When an engine is started, let go, started again and given up."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.server.keeper import FIRST_REST, LONGEST_REST, MOST_ENDS, WINDOW, Keeper
from ramify.wire.notices import (
    LONGEST,
    EngineFailed,
    EngineNews,
    LetGo,
    Lines,
    Wanted,
    line_of,
    to_parent,
    to_worker,
)


class Hands:
    """Notes what it is told to do. `lives`: there is a process."""

    def __init__(self) -> None:
        self.keeper: Keeper | None = None
        self.lives = False
        self.stopped = self.killed = False
        self.told: list[str] = []

    def start(self, number: int) -> None:
        assert not self.lives, "two engines of one model"
        self.lives, self.stopped = True, False

    def stop(self) -> None:
        assert self.lives
        self.stopped = True

    def kill(self) -> None:
        assert self.lives
        assert self.stopped
        self.killed = True

    def publish(self) -> None:
        assert self.keeper is not None
        self.told.append(self.keeper.phase)


class World:
    def __init__(self, lazy: bool = False, workers: int = 1) -> None:
        self.now = 100.0
        self.hands = Hands()
        self.keeper = Keeper("m", self.hands, lazy=lazy, workers=workers, clock=lambda: self.now)
        self.hands.keeper = self.keeper
        self.keeper.begin()

    def ready(self) -> World:
        self.keeper.ready(self.keeper.number)
        return self

    def end(self, why: str = "it died") -> None:
        self.hands.lives = False
        self.keeper.ended(why)

    def rest(self) -> None:
        assert self.keeper.due is not None
        self.now = self.keeper.due
        self.keeper.tick()


def test_an_engine_starts_with_the_server_unless_it_is_lazy() -> None:
    eager, lazy = World(), World(lazy=True)
    assert (eager.keeper.phase, eager.keeper.must_start) == ("starting", True)
    assert (lazy.keeper.phase, lazy.keeper.must_start) == ("asleep", False)
    lazy.keeper.want()
    assert lazy.keeper.phase == "starting"
    assert not eager.ready().keeper.must_start


def test_an_engine_that_dies_is_started_again_after_a_rest_that_grows() -> None:
    world = World().ready()
    rests = []
    for _ in range(MOST_ENDS):
        world.end()
        assert world.keeper.phase == "resting"
        assert world.keeper.due is not None
        rests.append(world.keeper.due - world.now)
        world.rest()
        world.ready()
    assert rests == [min(FIRST_REST * 2**n, LONGEST_REST) for n in range(MOST_ENDS)]
    world.end("once more")
    assert world.keeper.phase == "given up"
    assert "once more" in world.keeper.why
    world.keeper.want()
    world.keeper.tick()
    assert not world.hands.lives


def test_old_ends_are_forgotten() -> None:
    world = World().ready()
    for _ in range(3 * MOST_ENDS):
        world.end()
        world.rest()
        world.ready()
        world.now += WINDOW / MOST_ENDS
    assert world.keeper.phase == "ready"


def test_a_lazy_engine_that_cannot_start_says_why_and_is_tried_again_when_wanted() -> None:
    world = World(lazy=True)
    world.keeper.want()
    world.end("no such file")
    assert (world.keeper.phase, world.keeper.why, world.keeper.due) == ("asleep", "no such file", None)
    world.keeper.want()  # at once: it rests first
    assert world.keeper.phase == "resting"
    world.rest()
    assert world.keeper.phase == "starting"


def test_leaving_takes_the_word_of_every_worker() -> None:
    world = World(workers=2).ready()
    world.keeper.idle(1)
    assert world.keeper.phase == "leaving"
    world.keeper.let_go(0, 1, free=True)
    world.keeper.let_go(0, 1, free=True)
    assert not world.hands.stopped
    world.keeper.let_go(1, 1, free=True)
    assert world.hands.stopped
    world.end()
    assert (world.keeper.phase, world.keeper.why) == ("asleep", "")


def test_a_worker_that_holds_on_keeps_it() -> None:
    world = World(workers=2).ready()
    world.keeper.idle(1)
    world.keeper.let_go(0, 1, free=True)
    world.keeper.let_go(1, 1, free=False)
    assert (world.keeper.phase, world.hands.stopped) == ("ready", False)


def test_who_is_wanted_while_it_may_still_stay_stays() -> None:
    world = World(workers=2).ready()
    world.keeper.idle(1)
    world.keeper.let_go(0, 1, free=True)
    world.keeper.want()
    assert world.keeper.phase == "ready"
    world.keeper.let_go(1, 1, free=True)  # late, and about nothing
    assert not world.hands.stopped


def test_who_is_wanted_while_it_ends_comes_back() -> None:
    world = World().ready()
    world.keeper.idle(1)
    world.keeper.let_go(0, 1, free=True)
    world.keeper.want()
    assert (world.keeper.phase, world.keeper.number) == ("leaving", 1)
    world.end()
    assert (world.keeper.phase, world.keeper.number) == ("starting", 2)
    world.ready()
    world.keeper.idle(2)
    world.keeper.let_go(0, 2, free=True)
    world.end()
    assert world.keeper.phase == "asleep"


def test_an_engine_that_does_not_end_is_killed() -> None:
    world = World().ready()
    world.keeper.idle(1)
    world.keeper.let_go(0, 1, free=True)
    world.keeper.tick()
    assert not world.hands.killed
    world.rest()
    assert world.hands.killed
    world.end()
    assert (world.keeper.phase, world.keeper.due) == ("asleep", None)


def test_words_about_an_engine_that_is_gone_change_nothing() -> None:
    world = World().ready()
    world.end()
    world.rest()
    world.keeper.ready(1)
    world.keeper.idle(1)
    world.keeper.let_go(0, 1, free=True)
    assert world.keeper.phase == "starting"


EVENTS = ("want", "ready", "idle", "free", "held", "end", "tick")


@given(st.booleans(), st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 1), st.floats(0, 40)), max_size=60))
@settings(deadline=None)
def test_whatever_happens(lazy: bool, events: list[tuple[str, int, float]]) -> None:
    """There is never a second process, none is stopped that a worker holds, and who waits is never forgotten: asleep
    means that no want came since.
    """
    world = World(lazy, workers=2)
    keeper, hands, holds = world.keeper, world.hands, set[int]()
    for event, origin, seconds in events:
        world.now += seconds
        before = keeper.phase
        if event == "want":
            keeper.want()
            assert keeper.phase != "asleep"
        elif event == "ready":
            keeper.ready(keeper.number)
        elif event == "idle":
            keeper.idle(keeper.number)
            holds = {0, 1} if before == "ready" else holds
        elif event in ("free", "held"):
            holds -= {origin} if event == "free" else set()
            keeper.let_go(origin, keeper.number, event == "free")
            if hands.stopped and before == "leaving":
                assert not holds
        elif event == "end" and hands.lives:
            hands.stopped = False
            world.end()
        elif event == "tick":
            keeper.tick()
        assert hands.lives == (keeper.phase in ("starting", "ready", "leaving"))
        assert keeper.phase != "resting" or keeper.due is not None


# -- what goes over the pipes ------------------------------------------------------------------------------------------


def test_notices_are_lines() -> None:
    for notice in (Wanted(3), LetGo(1, 2, 3, True), EngineFailed(0, 1, "two\nlines")):
        line = line_of(notice)
        assert line.count(b"\n") == 1
        assert to_parent(line) == notice
    news = EngineNews(0, 4, "given up", "why")
    assert to_worker(line_of(news)) == news


@pytest.mark.parametrize("why", ["x" * 5000, "ä\n" * 3000, '"\\' * 2000, "\U0001f600" * 900])
def test_a_reason_that_is_too_long_is_cut(why: str) -> None:
    line = line_of(EngineFailed(0, 1, why))
    assert len(line) <= LONGEST
    cut = to_parent(line)
    assert isinstance(cut, EngineFailed)
    assert cut.why
    assert why.startswith(cut.why)


def test_a_line_in_two_pieces_is_one() -> None:
    read, write = os.pipe()
    lines = Lines()
    whole = line_of(Wanted(1))
    os.write(write, whole + whole[:5])
    assert lines.read(read) == [whole[:-1]]
    os.write(write, whole[5:])
    assert lines.read(read) == [whole[:-1]]
    os.close(write)
    assert lines.read(read) is None
    os.close(read)
