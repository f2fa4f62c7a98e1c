"""Layers that see only a window have pages of their own: given back when the window has left, and right when reused."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_loop_properties import Guesser, play
from world import World, expected, submit

from ramify.cache.ledger import Ledger
from ramify.cache.tree import pack
from ramify.cache.window import WindowShape

SUPPRESSED = list(HealthCheck)


def pages_of(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("page_size", [1, 4, 16])
@settings(max_examples=25, deadline=None, suppress_health_check=SUPPRESSED)
@given(
    seed=st.integers(0, 10**6),
    window=st.integers(1, 60),
    chunk=st.sampled_from([7, 30, 4096]),
    tight=st.booleans(),
    scarce=st.booleans(),
    guessing=st.booleans(),
    policy=st.sampled_from(["fcfs", "lpm", "priority"]),
)
def test_outputs_and_windows_are_right(
    depth: int,
    page_size: int,
    seed: int,
    window: int,
    chunk: int,
    tight: bool,
    scarce: bool,
    guessing: bool,
    policy: str,
) -> None:
    """The executor reads every window through its own pages and notes what does not belong there."""
    pages = pages_of(window + 40, page_size) + 4 if scarce else pages_of(600, page_size)
    world = World(
        depth=depth,
        page_size=page_size,
        chunk=chunk,
        pool=160 if tight else 4096,
        policy=policy,
        rows=5,
        drafter=Guesser(seed) if guessing else None,
        beside=WindowShape(pages, window),
    )
    play(world, seed, requests=12, pool_is_tight=tight)


def test_a_long_request_holds_no_more_than_its_window() -> None:
    world = World(page_size=4, chunk=16, beside=WindowShape(14, 20))
    tokens = [n % 50 for n in range(300)]
    world.send(submit("r", tokens, 100, params={"ignore_eos": True}))
    world.drain()
    assert world.outcomes["r"].tokens == expected(tokens, 100, ignore_eos=True)
    assert not world.executor.damage


def test_what_was_computed_is_reused_with_its_window() -> None:
    world = World(page_size=4, beside=WindowShape(200, 20))
    tokens = [n % 50 for n in range(101)]
    world.send(submit("first", tokens, 10, params={"ignore_eos": True}))
    world.drain()
    whole = tokens + world.outcomes["first"].tokens
    world.send(submit("second", [*whole, 1, 2], 3))
    world.send(submit("third", [*tokens[:70], 9], 3))
    world.drain()
    assert world.outcomes["second"].cached == 110  # the last token was never computed
    assert world.outcomes["third"].cached == 70
    assert not world.executor.damage


def leased(ledger: Ledger, tokens: list[int]) -> int:
    """Compute and give back; returns how much of it was there."""
    key = pack(tokens)
    lease, copies = ledger.open(ledger.match(key, ""))
    start = lease.start
    ledger.copied([copy.ticket for copy in copies])
    assert ledger.grow(lease, len(tokens))
    ledger.close(lease, key, len(tokens), 0)
    assert not ledger.check()
    return start


def test_the_usable_hit_ends_where_a_whole_window_is() -> None:
    """40 tokens in the tree; room for 12 in the window group: of an older prefix only the full pages are left."""
    ledger = Ledger(100, 4, beside=WindowShape(12, 8))
    first, second = list(range(40)), list(range(100, 140))
    assert leased(ledger, first) == 0
    assert leased(ledger, [*first, 1]) == 40
    assert leased(ledger, second) == 0
    assert ledger.cache.match(pack(first), "").tokens == 40
    assert ledger.match(pack(first), "").tokens < 40
    assert leased(ledger, second) == 40


def test_a_window_that_was_computed_again_is_kept_again() -> None:
    """The tree had the tokens all the time; only their window was gone."""
    ledger = Ledger(100, 4, beside=WindowShape(10, 8))
    first, second = list(range(40)), list(range(100, 140))
    leased(ledger, first)
    leased(ledger, second)
    assert leased(ledger, first) < 40
    assert ledger.match(pack(first), "").tokens == 40


def test_flushing_gives_all_of_both_groups_back() -> None:
    ledger = Ledger(100, 4, beside=WindowShape(50, 8))
    rnd = random.Random(1)
    for _ in range(20):
        leased(ledger, [rnd.randrange(3) for _ in range(rnd.randrange(1, 60))])
    ledger.flush()
    assert (len(ledger.pool), ledger.beside.free) == (100, 50)
    assert not ledger.check()


def test_check_notices_a_window_page_that_is_lost() -> None:
    ledger = Ledger(100, 4, beside=WindowShape(50, 8))
    leased(ledger, list(range(30)))
    assert not ledger.check()
    ledger.beside.take(1)
    assert any("second group" in wrong for wrong in ledger.check())


class SlidesTooFar(Ledger):
    def slide(self, lease: object, computed: int) -> None:
        super().slide(lease, computed + 9)  # type: ignore[arg-type]


def test_a_window_that_is_left_too_early_is_noticed() -> None:
    world = World(page_size=4, chunk=16, beside=WindowShape(200, 20), ledger_class=SlidesTooFar)
    for number in range(6):
        world.send(submit(f"r{number}", [(n * number) % 50 for n in range(90)], 40))
    world.drain()
    assert world.executor.damage
