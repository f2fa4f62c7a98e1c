"""Whatever happens to requests, their tokens are those of a machine without pages, batches and steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import VOCAB, World, expected, prompts, submit

from ramify.schedule.request import Request
from ramify.wire.messages import Abort
from ramify.worker.fake import next_token

CONFIGS = [
    {"depth": depth, "page_size": page_size, "reuse": reuse, "chunk": chunk}
    for depth in (0, 1, 2, 3)
    for page_size in (1, 16)
    for reuse in (True, False)
    for chunk in (7, 4096)
]


class Guesser:
    """Drafts that are right with a given chance, so that some are accepted whole, some in part and some not at all."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)

    def propose(self, request: Request, room: int) -> tuple[int, ...]:
        sequence = list(request.tokens)
        for _ in range(min(self.rnd.randrange(4), room)):
            right = next_token(sequence, VOCAB)
            sequence.append(right if self.rnd.random() < 0.7 else self.rnd.randrange(VOCAB))
        return tuple(sequence[len(request.tokens) :])


def play(world: World, seed: int, requests: int, pool_is_tight: bool) -> None:
    """Random arrivals, aborts and text stops, until all is over; then every output is checked."""
    rnd = random.Random(seed)
    wanted: dict[str, tuple[list[int], int]] = {}
    alive: list[str] = []
    for number, tokens in enumerate(prompts(rnd, requests)):
        rid = f"r{number}"
        max_new = rnd.randrange(0, 40)
        wanted[rid] = (tokens, max_new)
        salt, invariant = rnd.choice(["", "", "x"]), rnd.random() < 0.3
        world.send(submit(rid, tokens, max_new, priority=rnd.choice([0, 0, 0, 1, 2]), salt=salt, invariant=invariant))
        alive.append(rid)
        for _ in range(rnd.randrange(0, 6)):
            world.step()
        if rnd.random() < 0.25:
            victim = rnd.choice(alive)
            keep = rnd.randrange(len(world.outcomes[victim].tokens) + 1) if rnd.random() < 0.5 else None
            world.send(Abort(victim, keep=keep))
            if keep is not None and victim in world.scheduler.requests:
                world.outcomes[victim].finish = None  # a text stop gets no answer: the API process knows
                wanted[victim] = (wanted[victim][0], -1)
    world.drain()
    assert not world.executor.damage
    for rid, (tokens, max_new) in wanted.items():
        outcome = world.outcomes[rid]
        full = expected(tokens, 40 if max_new < 0 else max_new)
        if outcome.finish is None or outcome.finish.type == "abort":
            assert outcome.tokens == full[: len(outcome.tokens)]
        else:
            assert outcome.tokens == full, rid
    if pool_is_tight:
        assert world.ledger.total * world.page_size <= 160


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(f"{k[0]}{int(v)}" for k, v in c.items()))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), tight=st.booleans(), policy=st.sampled_from(["fcfs", "lpm", "priority"]))
def test_outputs_do_not_depend_on_how_they_were_scheduled(config: dict, seed: int, tight: bool, policy: str) -> None:
    world = World(**config, pool=160 if tight else 4096, policy=policy, rows=5)
    play(world, seed, requests=14, pool_is_tight=tight)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), depth=st.integers(0, 3), page_size=st.sampled_from([1, 16]), tight=st.booleans())
def test_drafts_change_speed_and_never_tokens(seed: int, depth: int, page_size: int, tight: bool) -> None:
    world = World(depth=depth, page_size=page_size, pool=160 if tight else 4096, rows=5, drafter=Guesser(seed))
    play(world, seed, requests=10, pool_is_tight=tight)


def test_a_tight_pool_preempts_and_nothing_is_lost() -> None:
    world = World(depth=1, page_size=16, pool=160, rows=6)
    rnd = random.Random(3)
    made = prompts(rnd, 10, longest=60)
    for number, tokens in enumerate(made):
        world.send(submit(f"r{number}", tokens, 60))
    world.drain()
    assert world.scheduler.counts.preemptions > 0
    assert any(outcome.preempted for outcome in world.outcomes.values())
    for number, tokens in enumerate(made):
        assert world.outcomes[f"r{number}"].tokens == expected(tokens, 60)


def test_accepted_drafts_save_steps() -> None:
    steps = {}
    for name, drafter in (("none", None), ("some", Guesser(1))):
        world = World(drafter=drafter)
        world.send(submit("r", [1, 2, 7], 40))
        world.drain()
        steps[name] = world.scheduler.counts.steps
        assert world.outcomes["r"].tokens == expected([1, 2, 7], 40)
    assert steps["some"] < steps["none"]
