"""Requests that ask for invariant kernels, beside others: the executor notices steps and prefixes of the wrong kind."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_loop_properties import Guesser, play
from world import World, expected, prompts, submit

from ramify.cache.state import StateShape
from ramify.cache.window import WindowShape
from ramify.schedule.mode import OneMode, TwoModes
from ramify.schedule.request import Request
from ramify.wire.plan import Plan

ORDERED = {"page_size": 4, "pool": 512, "chunk": 16}


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(0, 3),
    page_size=st.sampled_from([1, 16]),
    tight=st.booleans(),
    guesses=st.booleans(),
)
def test_every_request_has_the_kernels_it_asked_for(
    seed: int, depth: int, page_size: int, tight: bool, guesses: bool
) -> None:
    drafter = Guesser(seed) if guesses else None
    pool = 160 if tight else 4096
    play(World(depth=depth, page_size=page_size, pool=pool, rows=5, drafter=drafter, modes=TwoModes()), seed, 14, tight)


@pytest.mark.parametrize("beside", [WindowShape(64, 10), StateShape(24, 8)], ids=["window", "state"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_windows_and_states_too(seed: int, depth: int, beside: WindowShape | StateShape) -> None:
    play(World(**ORDERED, depth=depth, rows=4, beside=beside, modes=TwoModes()), seed, 14, False)


def test_prefixes_of_the_two_kinds_stand_apart() -> None:
    world, prompt = World(modes=TwoModes()), list(range(30))
    for rid, invariant in (("a", False), ("b", True), ("c", True), ("d", False)):
        world.send(submit(rid, prompt, 4, invariant=invariant))
        world.drain()
    assert [world.outcomes[rid].cached for rid in "abcd"] == [0, 0, 29, 29]
    assert not world.executor.damage


def test_no_salt_names_the_other_kind() -> None:
    modes, salts = TwoModes(), ["", "x", "invariant:", "any:", "invariant:x", "any:invariant:"]
    made = {modes.salted(salt, invariant) for salt in salts for invariant in (True, False)}
    assert len(made) == 2 * len(salts)


def test_one_set_of_kernels_has_one_tree() -> None:
    world, prompt = World(), list(range(30))
    for rid, invariant in (("a", False), ("b", True)):
        world.send(submit(rid, prompt, 4, invariant=invariant))
        world.drain()
    assert world.outcomes["b"].cached == 29
    assert not any(each.invariant for each in world.scheduler.requests.values())
    assert not world.executor.damage


def test_a_step_is_invariant_while_such_a_row_is_in_it() -> None:
    plans: list[Plan] = []

    class Watched(World):
        def __post_init__(self) -> None:
            super().__post_init__()
            launch = self.executor.launch
            self.executor.launch = lambda plan: (plans.append(plan), launch(plan))  # type: ignore[method-assign, assignment]

    world = Watched(modes=TwoModes())
    world.send(submit("long", [1, 2, 3], 20, params={"ignore_eos": True}))
    world.step()
    world.send(submit("short", [4, 5], 3, invariant=True, params={"ignore_eos": True}))
    world.drain()
    assert [plan.invariant for plan in plans if plan.rows] == [False, *[True] * 3, *[False] * 16]
    assert world.outcomes["long"].tokens == expected([1, 2, 3], 20, ignore_eos=True)


class Liar(TwoModes):
    """Wrong in one of the three things that it is asked."""

    def __init__(self, about: str) -> None:
        self._about = about

    def salted(self, salt: str, invariant: bool) -> str:
        return salt if self._about == "salts" else super().salted(salt, invariant)

    def of_step(self, requests: object) -> bool:
        return self._about == "always" if self._about in ("always", "never") else super().of_step(requests)  # type: ignore[arg-type]


@pytest.mark.parametrize("about", ["salts", "always", "never"])
@pytest.mark.parametrize("beside", [None, WindowShape(64, 10), StateShape(24, 8)], ids=["full", "window", "state"])
def test_the_executor_notices(about: str, beside: WindowShape | StateShape | None) -> None:
    """That the tests above find nothing says something."""
    world, rnd = World(**ORDERED, rows=4, beside=beside, modes=Liar(about)), random.Random(1)
    for number, tokens in enumerate(prompts(rnd, 12)):
        world.send(submit(f"r{number}", tokens, 6, invariant=bool(number % 2)))
        for _ in range(3):
            world.step()
    world.drain()
    assert world.executor.damage


def test_a_copy_carries_how_it_was_computed() -> None:
    """A hit that ends inside a page is taken over: the copy is as good as its source, and no better."""
    world, prompt = World(page_size=4, modes=TwoModes()), list(range(10, 20))
    world.send(submit("a", prompt, 4, invariant=True, params={"ignore_eos": True}))
    world.drain()
    world.send(submit("b", [*prompt, 1, 2], 4, invariant=True, params={"ignore_eos": True}))
    world.drain()
    assert world.outcomes["b"].cached % 4
    assert not world.executor.damage


def test_nobody_asks_where_there_is_one() -> None:
    asked = submit("r", [1], invariant=True)
    request = Request(asked, order=0, max_new=1, stop_ids=frozenset(), lot=0.0, modes=OneMode())
    assert not request.invariant
    assert request.salt == ""
