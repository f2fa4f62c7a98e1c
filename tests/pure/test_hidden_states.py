"""Hidden states come once for every position that was asked for, whatever happens to their request."""

from __future__ import annotations

from array import array

import pytest
from world import Outcome, World, expected, submit

from ramify.schedule.drafter import Drafter
from ramify.schedule.request import Request
from ramify.wire.messages import Abort
from ramify.wire.plan import HiddenWanted

LONG = [(7 * n + n // 3) % 50 for n in range(400)]
GO_ON = {"ignore_eos": True}
ALL = HiddenWanted(0)


def states(outcome: Outcome) -> list[tuple[float, float]]:
    """(token, position) of each state that was told, in order, and that replies follow one another."""
    found: list[tuple[float, float]] = []
    for part in outcome.hidden:
        numbers = array("f", part.data)
        assert len(numbers) == 2 * part.count
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        assert [position for _, position in pairs] == list(range(part.start, part.start + part.count))
        found += pairs
    return found


def of(tokens: list[int], first: int = 0) -> list[tuple[float, float]]:
    return [(float(token), float(position)) for position, token in enumerate(tokens)][first:]


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("page_size", [1, 16])
def test_every_position_but_the_last(depth: int, page_size: int) -> None:
    """The last token is nobody's input. What stands in the cache is computed again, as it has to be told."""
    world = World(page_size=page_size, chunk=16, depth=depth)
    for rid in ("cold", "warm"):
        world.send(submit(rid, LONG[:70], 20, params=GO_ON, hidden=ALL))
        world.drain()
        outcome = world.outcomes[rid]
        assert states(outcome) == of([*LONG[:70], *outcome.tokens[:-1]])
        assert outcome.cached == 0
    world.send(submit("late", LONG[:70], 5, params=GO_ON, hidden=HiddenWanted(60)))
    world.drain()
    assert states(world.outcomes["late"]) == of([*LONG[:70], *world.outcomes["late"].tokens[:-1]], 60)
    assert world.outcomes["late"].cached == 60
    assert not world.executor.damage


def test_nobody_who_did_not_ask_is_told() -> None:
    world = World(page_size=16, chunk=16)
    world.send(submit("asks", LONG[:30], 5, hidden=ALL), submit("does not", [9, *LONG[:30]], 5))
    world.drain()
    assert world.outcomes["asks"].hidden
    assert not world.outcomes["does not"].hidden


@pytest.mark.parametrize("stride", [0, 1, 3])
def test_replies_have_the_states_of_their_tokens(stride: int) -> None:
    world = World(page_size=16, chunk=16, depth=1)
    world.send(submit("a", LONG[:40], 20, params=GO_ON, hidden=ALL, stride=stride))
    world.drain()
    assert len(world.outcomes["a"].hidden) == {0: 1, 1: 20, 3: 8}[stride]
    assert states(world.outcomes["a"]) == of([*LONG[:40], *world.outcomes["a"].tokens[:-1]])


def test_the_newest_alone() -> None:
    world = World(page_size=16, chunk=16, depth=1)
    world.send(submit("a", LONG[:40], 9, params=GO_ON, hidden=HiddenWanted(39, last=True), stride=0))
    world.send(submit("none", LONG[:40], 0, hidden=HiddenWanted(39, last=True), stride=0))
    world.drain()
    tokens = [*LONG[:40], *world.outcomes["a"].tokens]
    assert states(world.outcomes["a"]) == of(tokens)[47:48]
    assert states(world.outcomes["none"]) == of(tokens)[39:40]


def test_a_text_stop_may_take_tokens_back_and_so_all_are_told() -> None:
    world = World(page_size=16, chunk=16)
    params = {"stop": "x", **GO_ON}
    world.send(submit("a", LONG[:40], 9, params=params, hidden=HiddenWanted(39, last=True), stride=1))
    while world.outcomes["a"].finish is None:
        world.step()
    world.send(Abort("a", keep=9))
    world.drain()
    assert states(world.outcomes["a"]) == of([*LONG[:40], *world.outcomes["a"].tokens[:-1]], 39)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_once_over_a_preemption(depth: int, reuse: bool) -> None:
    world = World(page_size=16, pool=208, chunk=16, rows=3, depth=depth, reuse=reuse)
    for n in range(3):
        world.send(submit(f"r{n}", [n + 8, *LONG[:70]], 90, params=GO_ON, hidden=ALL))
    world.drain()
    assert world.scheduler.counts.preemptions
    for n in range(3):
        outcome = world.outcomes[f"r{n}"]
        assert states(outcome) == of([n + 8, *LONG[:70], *outcome.tokens[:-1]])
    assert not world.executor.damage


class Guesses(Drafter):
    """Right about the first token and wrong about the second."""

    def propose(self, request: Request, room: int) -> tuple[int, ...]:
        (right,) = expected(list(request.tokens), 1, ignore_eos=True)
        return (right, 49)[:room]


@pytest.mark.parametrize("depth", [0, 1])
def test_no_state_of_a_rejected_guess(depth: int) -> None:
    world = World(page_size=16, chunk=16, depth=depth, drafter=Guesses())
    world.send(submit("a", LONG[:40], 20, params=GO_ON, hidden=ALL))
    world.drain()
    assert states(world.outcomes["a"]) == of([*LONG[:40], *world.outcomes["a"].tokens[:-1]])
