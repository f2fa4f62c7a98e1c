"""Layers that keep a state: it is always of exactly the tokens before, and the cache offers it at page boundaries."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_loop_properties import Guesser, play
from world import World, expected, submit

from ramify.cache.ledger import Ledger
from ramify.cache.state import StatePages, StateShape
from ramify.cache.tree import pack

SUPPRESSED = list(HealthCheck)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("page_size", [1, 4, 16])
@settings(max_examples=25, deadline=None, suppress_health_check=SUPPRESSED)
@given(
    seed=st.integers(0, 10**6),
    slots=st.sampled_from([2, 3, 7, 300]),
    interval=st.sampled_from([1, 16, 40, 1000]),
    chunk=st.sampled_from([7, 30, 4096]),
    tight=st.booleans(),
    guessing=st.booleans(),
    policy=st.sampled_from(["fcfs", "lpm", "priority"]),
)
def test_outputs_and_states_are_right(
    depth: int,
    page_size: int,
    seed: int,
    slots: int,
    interval: int,
    chunk: int,
    tight: bool,
    guessing: bool,
    policy: str,
) -> None:
    """The executor folds tokens into the states that it reads, and notes one that is not of all tokens before."""
    world = World(
        depth=depth,
        page_size=page_size,
        chunk=chunk,
        pool=160 if tight else 4096,
        policy=policy,
        rows=5,
        drafter=Guesser(seed) if guessing else None,
        beside=StateShape(slots, interval),
    )
    play(world, seed, requests=12, pool_is_tight=tight)


class Oracle:
    """What a cache with room for everything can offer: states where the ledger is told to want them."""

    def __init__(self, page_size: int, interval: int) -> None:
        self.page_size, self.interval = page_size, interval
        self.texts: set[tuple[int, ...]] = set()  # whole pages of tokens that somebody computed
        self.states: set[tuple[int, ...]] = set()  # of them, those with a state at their end

    def whole(self, tokens: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[:end]) for end in range(self.page_size, len(tokens) + 1, self.page_size)]

    def best(self, tokens: list[int]) -> int:
        return max((len(text) for text in self.whole(tokens) if text in self.states), default=0)

    def compute(self, tokens: list[int]) -> None:
        shared = max((len(text) for text in self.whole(tokens) if text in self.texts), default=0)
        start, marks = self.best(tokens), {shared, (len(tokens) - 1) // self.page_size * self.page_size}
        for text in self.whole(tokens):
            self.texts.add(text)
            if start < len(text) and (len(text) % self.interval == 0 or len(text) in marks):
                self.states.add(text)


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("interval", [8, 20])
def test_the_usable_hit_is_the_longest_with_a_state(page_size: int, interval: int) -> None:
    ledger, oracle = Ledger(5000, page_size, beside=StateShape(3000, interval)), Oracle(page_size, interval)
    rnd, texts = random.Random(page_size), [[1] * 5]
    hits = 0
    for _ in range(300):
        stem = rnd.choice(texts)[: rnd.randrange(60)]
        tokens = [*stem, *(rnd.randrange(3) for _ in range(rnd.randrange(1, 30)))]
        texts.append(tokens)
        assert leased(ledger, tokens) == oracle.best(tokens)
        hits += oracle.best(tokens) > 0
        oracle.compute(tokens)
    assert hits > 100


def leased(ledger: Ledger, tokens: list[int]) -> int:
    """Compute and give back; returns from where on it had to be computed."""
    key = pack(tokens)
    lease, copies = ledger.open(ledger.match(key, ""), len(tokens))
    assert not copies
    assert ledger.grow(lease, len(tokens) + 1)  # whatever is at the end is final
    ledger.publish(lease, key, len(tokens))
    ledger.close(lease, key, len(tokens), 0)
    assert not ledger.check()
    return lease.start


def test_what_was_computed_is_not_computed_again() -> None:
    """A longer conversation goes on behind the last boundary of what came before; so does the same prompt."""
    world = World(page_size=4, chunk=16, beside=StateShape(40, 16))
    tokens = [n % 50 for n in range(101)]
    world.send(submit("first", tokens, 10, params={"ignore_eos": True}))
    world.drain()
    whole = tokens + world.outcomes["first"].tokens
    world.send(submit("again", tokens, 3), submit("longer", [*whole, 1, 2], 3))
    world.drain()
    assert world.outcomes["again"].cached == 100
    assert world.outcomes["longer"].cached == 100
    assert world.scheduler.counts.computed_tokens == len(tokens) + 9 + (1 + 2) + (len(whole) - 100 + 2 + 2)


@pytest.mark.parametrize(("interval", "hits"), [(16, [80, 48]), (1000, [100, 0])])
def test_a_follower_waits_where_a_state_will_be(interval: int, hits: list[int]) -> None:
    """At an interval, as long as it saves much, or at the end of the same prompt. Nobody waits for no state."""
    world = World(page_size=4, chunk=16, beside=StateShape(60, interval))
    tokens = [n % 50 for n in range(101)]
    other = [*tokens[:50], *[1] * 51]
    world.send(submit("leader", tokens, 2), submit("same", tokens, 2), submit("other", other, 2))
    world.drain()
    assert [world.outcomes[name].cached for name in ("same", "other")] == hits


def test_a_way_that_parts_is_remembered_where_it_parts() -> None:
    """The second has to compute states of what the tree has already; the third finds one where the ways parted."""
    world = World(page_size=4, beside=StateShape(40, 1000))
    tokens = [n % 50 for n in range(80)]
    for name, rest in (("first", 1), ("second", 2), ("third", 3)):
        world.send(submit(name, [*tokens[:60], *[rest] * 10], 2))
        world.drain()
    assert [world.outcomes[name].cached for name in ("first", "second", "third")] == [0, 0, 60]
    assert world.ledger.cache.pages < 30, "the pages of the common part are there once"


def test_a_preempted_request_goes_on_from_its_last_state() -> None:
    world = World(depth=1, page_size=4, pool=160, rows=6, beside=StateShape(60, 16))
    wanted = {}
    for number in range(6):
        tokens = [(n * (number + 3)) % 50 for n in range(40)]
        wanted[f"r{number}"] = expected(tokens, 50, ignore_eos=True)
        world.send(submit(f"r{number}", tokens, 50, params={"ignore_eos": True}))
    world.drain()
    assert world.scheduler.counts.preemptions > 0
    assert {rid: world.outcomes[rid].tokens for rid in wanted} == wanted
    assert world.scheduler.counts.computed_tokens < 6 * 90 + world.scheduler.counts.preemptions * 60
    assert not world.executor.damage


def test_a_request_holds_a_few_states_however_long_it_is() -> None:
    world = World(page_size=4, chunk=16, beside=StateShape(4, 16))
    tokens = [n % 50 for n in range(300)]
    world.send(submit("r", tokens, 100, params={"ignore_eos": True}))
    world.drain()
    assert world.outcomes["r"].tokens == expected(tokens, 100, ignore_eos=True)
    assert not world.executor.damage


def test_the_least_recently_used_state_gives_way() -> None:
    ledger = Ledger(500, 4, beside=StateShape(4, 1000))
    first, second, third = ([base + n for n in range(21)] for base in (0, 100, 200))
    for tokens in (first, second, first, third):
        leased(ledger, tokens)
    assert [leased(ledger, tokens) for tokens in (first, third)] == [20, 20]
    leased(ledger, [n + 300 for n in range(21)])
    leased(ledger, [n + 400 for n in range(21)])
    assert leased(ledger, second) == 0


def test_flushing_gives_all_slots_back() -> None:
    ledger = Ledger(100, 4, beside=StateShape(50, 8))
    rnd = random.Random(1)
    for _ in range(20):
        leased(ledger, [rnd.randrange(3) for _ in range(rnd.randrange(1, 60))])
    ledger.flush()
    assert isinstance(ledger.beside, StatePages)
    assert (len(ledger.pool), len(ledger.beside.pool)) == (100, 50)


def test_check_notices_a_slot_that_is_lost() -> None:
    ledger = Ledger(100, 4, beside=StateShape(50, 8))
    leased(ledger, list(range(30)))
    assert isinstance(ledger.beside, StatePages)
    ledger.beside.take(1)
    assert any("second group" in wrong for wrong in ledger.check())


class KeepsTooEarly(Ledger):
    """States that are written over while they are offered."""

    def _build_beside(self) -> StatePages:
        class Careless(StatePages):
            def keep(self, pages: Sequence[int], held: Sequence[int], start: int, computed: int) -> int:
                for full, slot in zip(pages, held[start:], strict=False):
                    self._keep(full, slot)
                return len(pages)

        assert isinstance(self._shape, StateShape)
        return Careless(self._shape, self.page_size)


def test_states_that_are_not_final_are_noticed() -> None:
    world = World(
        page_size=4, chunk=16, depth=1, beside=StateShape(60, 16), ledger_class=KeepsTooEarly, prove=False, rows=3
    )
    for number in range(6):
        world.send(submit(f"r{number}", [(n * (number // 2)) % 50 for n in range(90)], 40))
    world.drain()
    assert any("state" in damage for damage in world.executor.damage)
