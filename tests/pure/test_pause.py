"""Paused, nothing is computed and nothing is lost; afterwards everything goes on as if nothing had been."""

from __future__ import annotations

import random

import pytest
from controlled import Controlled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import expected, prompts, submit

from ramify.wire.messages import Abort, ToEngine

KEEPING = ("retract", "in_place")


def running(world: Controlled, *rids: str, max_new: int = 30) -> None:
    for number, rid in enumerate(rids):
        world.send(submit(rid, [number + 1, 2, 3, 4, 5, 6, 8, 9], max_new, params={"ignore_eos": True}))
    for _ in range(4):
        world.step()
    assert len(world.scheduler.running) == len(rids)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("mode", KEEPING)
def test_a_paused_loop_computes_nothing(mode: str, depth: int) -> None:
    world = Controlled(depth=depth, page_size=4)
    running(world, "a", "b")
    world.order("pause", mode=mode)
    assert not world.loop.flying
    steps, told = world.executor.steps, len(world.outcomes["a"].tokens)
    world.send(submit("late", [4, 4, 4], 5))
    for _ in range(20):
        world.step()
    assert world.executor.steps == steps
    assert len(world.outcomes["a"].tokens) == told > 0
    assert world.order("paused") is True
    assert [r.id for r in world.scheduler.waiting] == (["a", "b", "late"] if mode == "retract" else ["late"])
    world.order("continue")
    world.drain()
    assert world.outcomes["a"].tokens == expected([1, 2, 3, 4, 5, 6, 8, 9], 30, ignore_eos=True)
    assert world.outcomes["a"].preempted == (mode == "retract")
    assert world.outcomes["late"].tokens == expected([4, 4, 4], 5)
    assert not world.executor.damage


@pytest.mark.parametrize("depth", [0, 1])
def test_abort_ends_everything_first(depth: int) -> None:
    world = Controlled(depth=depth, rows=2)
    running(world, "a", "b")
    world.send(submit("waits", [3, 3], 9))
    world.order("pause", mode="abort")
    assert world.loop.is_idle
    for rid in ("a", "b", "waits"):
        finish = world.outcomes[rid].finish
        assert finish is not None
        assert (finish.type, finish.status) == ("abort", None)
    whole = expected([1, 2, 3, 4, 5, 6, 8, 9], 30, ignore_eos=True)
    assert world.outcomes["a"].tokens == whole[: len(world.outcomes["a"].tokens)] != []
    world.send(submit("later", [3, 3], 4))
    world.step()
    assert world.outcomes["later"].finish is None
    world.order("continue")
    world.drain()
    assert world.outcomes["later"].tokens == expected([3, 3], 4)


def test_retracted_requests_leave_their_pages_and_the_cache_can_go_too() -> None:
    world = Controlled(page_size=4, depth=1)
    running(world, "a", "b")
    assert "running or waiting" in world.refused("flush_cache")
    world.order("pause", mode="in_place")
    assert "running or waiting" in world.refused("flush_cache")
    world.order("pause", mode="retract")
    assert world.ledger.used == 0
    assert world.order("flush_cache") > 0
    assert len(world.ledger.pool) == world.ledger.total
    assert world.order("loads")["queues"] == {"waiting": 2, "grammar": 0, "paused": 0, "retracted": 2}
    world.order("continue")
    world.drain()
    assert world.outcomes["b"].tokens == expected([2, 2, 3, 4, 5, 6, 8, 9], 30, ignore_eos=True)


def test_frozen_requests_are_counted_as_paused() -> None:
    world = Controlled()
    running(world, "a", "b")
    world.order("pause", mode="in_place")
    assert world.order("loads")["queues"] == {"waiting": 0, "grammar": 0, "paused": 2, "retracted": 0}


def test_what_is_aborted_while_paused_ends_at_once() -> None:
    world = Controlled()
    running(world, "a", "b")
    world.order("pause", mode="in_place")
    world.send(Abort("a"))
    world.step()
    assert world.outcomes["a"].finish is not None
    assert world.order("abort", rid="b") == 1
    assert world.outcomes["b"].finish is not None
    assert world.ledger.used == 0


class Waits:
    """A channel's end that keeps how long it was asked to wait, and waits not."""

    def __init__(self, world: Controlled) -> None:
        self._take = world.engine_end.take
        self.timeouts: list[float | None] = []
        world.engine_end.take = self.take  # type: ignore[method-assign]

    def take(self, timeout: float | None) -> list[ToEngine]:
        self.timeouts.append(timeout)
        return self._take(0)


@pytest.mark.parametrize("mode", [*KEEPING, "abort"])
def test_a_paused_loop_sleeps(mode: str) -> None:
    world = Controlled()
    running(world, "a")
    world.order("pause", mode=mode)
    waits = Waits(world)
    world.loop.step()
    assert waits.timeouts == [None]


def test_a_paused_loop_wakes_for_what_has_a_deadline() -> None:
    world = Controlled()
    running(world, "a")
    world.order("pause", mode="in_place")
    ticket = world.send_order("flush_cache", timeout=7.0)
    world.step()
    assert ticket not in world.answers
    waits = Waits(world)
    world.now = 2.0
    world.loop.step()
    assert waits.timeouts == [5.0]
    world.now = 7.0
    world.step()
    assert "running or waiting" in (world.answers[ticket].error or "")
    world.loop.step()
    assert waits.timeouts[-1] is None


def test_a_flush_that_waits_is_done_when_its_time_has_come() -> None:
    world = Controlled(page_size=4)
    running(world, "a", max_new=12)
    ticket = world.send_order("flush_cache", timeout=7.0)
    world.drain()
    world.step()
    assert world.answers[ticket].value > 0


def test_pausing_at_idle_leaves_the_books_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Frozen requests hold pages, which at idle would be an error."""
    world = Controlled(page_size=4)
    running(world, "a")
    world.order("pause", mode="in_place")
    Waits(world)
    world.loop.step()
    assert "accounting" not in caplog.text
    assert world.ledger.used > 0


def test_an_unknown_mode() -> None:
    world = Controlled()
    assert "no mode" in world.refused("pause", mode="x")
    assert not world.loop.paused
    world.order("continue")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(0, 3),
    page_size=st.sampled_from([1, 16]),
    tight=st.booleans(),
    reuse=st.booleans(),
)
def test_pauses_change_when_and_never_what(seed: int, depth: int, page_size: int, tight: bool, reuse: bool) -> None:
    rnd = random.Random(seed)
    world = Controlled(depth=depth, page_size=page_size, pool=160 if tight else 4096, rows=5, chunk=24, reuse=reuse)
    wanted: dict[str, tuple[list[int], int]] = {}
    for number, tokens in enumerate(prompts(rnd, 12)):
        wanted[f"r{number}"] = tokens, rnd.randrange(0, 40)
        world.send(submit(f"r{number}", *wanted[f"r{number}"], priority=rnd.choice([0, 0, 1])))
        for _ in range(rnd.randrange(0, 5)):
            world.step()
        if rnd.random() < 0.5:
            modes = (*KEEPING, "abort") if rnd.random() < 0.2 else KEEPING
            for _ in range(rnd.randrange(1, 3)):
                world.order("pause", mode=rnd.choice(modes))
            steps = world.executor.steps
            if rnd.random() < 0.3:
                world.send(Abort(rnd.choice(list(wanted))))
            if rnd.random() < 0.3:
                world.send_order("flush_cache")
            for _ in range(rnd.randrange(0, 4)):
                world.step()
            assert world.executor.steps == steps
            world.order("continue")
    world.drain()
    assert not world.executor.damage
    for rid, (tokens, max_new) in wanted.items():
        outcome, full = world.outcomes[rid], expected(tokens, max_new)
        assert outcome.finish is not None
        cut = outcome.finish.type == "abort"
        assert outcome.tokens == (full[: len(outcome.tokens)] if cut else full), rid
