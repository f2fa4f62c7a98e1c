"""Constrained requests: what is forced is never sampled, and nothing but speed depends on when it is known."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import EOS, VOCAB, World, prompts, submit

from ramify.core.errors import BadRequest
from ramify.core.finish import Finish
from ramify.schedule.guide import FREE, Allowed, Guide, Guided
from ramify.schedule.request import Request
from ramify.wire.masks import Masks
from ramify.wire.messages import Abort, Submit, ToEngine
from ramify.worker.fake import next_token


def allowed_after(taken: Sequence[int], length: int) -> list[int]:
    """A toy language: which tokens may follow depends on how many there are and on the last one."""
    if len(taken) >= length:
        return []
    state = len(taken) * 7 + (taken[-1] if taken else 0) * 3
    if state % 10 < 7:
        return [8 + state % 40]
    return sorted({8 + (state + k * 11) % 40 for k in range(5)})


class ToyGuide:
    def __init__(self, length: int, jumps: bool) -> None:
        self.length, self.jumps = length, jumps
        self.taken: list[int] = []

    def take(self, token: int) -> bool:
        assert token in allowed_after(self.taken, self.length)
        self.taken.append(token)
        return len(self.taken) == self.length

    def forced(self, room: int) -> list[int]:
        found: list[int] = []
        while self.jumps and len(found) < room and len(one := allowed_after(self.taken + found, self.length)) == 1:
            found += one
        return found


class Toys:
    """Requests with the note `toy` are guided; it says how long they get."""

    def __init__(self, jumps: bool = True, breaks_at: int = 1 << 30) -> None:
        self.jumps, self.breaks_at = jumps, breaks_at

    def guide(self, submit: Submit) -> Guide:
        if "toy" not in submit.notes:
            return FREE
        if submit.notes["toy"] == b"bad":
            raise BadRequest("no such language")
        return ToyGuide(int(submit.notes["toy"]), self.jumps)

    def look(self, requests: Sequence[Request]) -> None: ...

    def warm(self) -> None: ...

    def close(self) -> None: ...

    def masks(self, rows: Sequence[Guided]) -> Allowed:
        failed = {}
        bits = np.zeros((len(rows), 64), dtype=np.uint8)
        for at, row in enumerate(rows):
            guide = row.request.guide
            assert isinstance(guide, ToyGuide)
            if len(guide.taken) >= self.breaks_at:
                failed[row.request.id] = Finish.abort("too hard", 400, "grammar")
            bits[at, allowed_after(guide.taken, guide.length) if row.known is None else [row.known]] = 1
        words = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
        return Allowed(Masks([row.index for row in rows], words), failed)


def expected(prompt: list[int], length: int, most: int) -> list[int]:
    """One token after the other, without steps."""
    tokens: list[int] = []
    while len(tokens) < min(length, most):
        allowed = allowed_after(tokens, length)
        tokens.append(allowed[next_token([*prompt, *tokens], VOCAB) % len(allowed)] if len(allowed) > 1 else allowed[0])
    return tokens


def free(prompt: list[int], most: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < most and (not tokens or tokens[-1] != EOS):
        tokens.append(next_token([*prompt, *tokens], VOCAB))
    return tokens


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(0, 3),
    page_size=st.sampled_from([1, 16]),
    chunk=st.sampled_from([3, 7, 512]),
    pool=st.sampled_from([208, 4096]),
    jumps=st.booleans(),
)
def test_the_same_tokens_however_they_are_found(
    seed: int, depth: int, page_size: int, chunk: int, pool: int, jumps: bool
) -> None:
    rnd = random.Random(seed)
    world = World(depth=depth, page_size=page_size, chunk=chunk, pool=pool, rows=4, guides=Toys(jumps))
    wanted: dict[str, list[int]] = {}
    waiting: list[Submit | Abort] = []
    aborted: set[str] = set()
    for number, prompt in enumerate(prompts(rnd, 10)):
        rid, length, most = f"r{number}", rnd.randrange(1, 40), rnd.randrange(1, 40)
        if rnd.random() < 0.7:
            waiting.append(submit(rid, prompt, most, notes={"toy": str(length).encode()}))
            wanted[rid] = expected(prompt, length, most)
        else:
            waiting.append(submit(rid, prompt, most))
            wanted[rid] = free(prompt, most)
        if rnd.random() < 0.15:
            aborted.add(rid)
    while waiting:
        world.send(waiting.pop(0))
        for _ in range(rnd.randrange(4)):
            world.step()
        if aborted and rnd.random() < 0.3:
            world.send(Abort(rnd.choice(sorted(aborted))))
    world.drain()
    assert not world.executor.damage
    for rid, outcome in world.outcomes.items():
        if rid in aborted:
            assert outcome.tokens == wanted[rid][: len(outcome.tokens)]
        else:
            assert outcome.tokens == wanted[rid]


@pytest.mark.parametrize("depth", [0, 1])
def test_jumping_saves_steps(depth: int) -> None:
    steps = {}
    for jumps in (False, True):
        world = World(depth=depth, guides=Toys(jumps))
        world.send(submit("r", [1, 2, 3], 200, notes={"toy": b"120"}))
        world.drain()
        steps[jumps] = world.executor.steps
        outcome = world.outcomes["r"]
        assert outcome.tokens == expected([1, 2, 3], 120, 200)
        assert outcome.finish is not None
        assert (outcome.finish.type, outcome.finish.matched) == ("stop", outcome.tokens[-1])
        assert not outcome.finish.by_token
    assert steps[True] <= steps[False] / 2


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_mask_that_cannot_be_made_ends_its_row_alone(depth: int) -> None:
    world = World(depth=depth, guides=Toys(jumps=False, breaks_at=5))
    world.send(submit("bad", [1, 2], 30, notes={"toy": b"30"}), submit("good", [3, 4], 30))
    world.drain()
    bad, good = world.outcomes["bad"], world.outcomes["good"]
    assert bad.finish is not None
    assert (bad.finish.type, bad.finish.status) == ("abort", 400)
    assert good.tokens == free([3, 4], 30)


def test_what_cannot_be_asked_is_refused() -> None:
    world = World(guides=Toys())
    world.send(submit("bad", [1, 2], 30, notes={"toy": b"bad"}))
    world.drain()
    finish = world.outcomes["bad"].finish
    assert finish is not None
    assert finish.status == 400


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_request_that_sits_out_a_plan_does_not_let_the_loop_sleep(depth: int) -> None:
    world = World(depth=depth, guides=Toys())
    asked: list[float | None] = []
    take = world.engine_end.take

    def awake(timeout: float | None) -> list[ToEngine]:
        asked.append(timeout)
        return take(0)

    world.engine_end.take = awake  # type: ignore[method-assign]
    world.send(submit("r", [1, 2, 3], 200, notes={"toy": b"120"}))
    world.loop.step()
    asked.clear()
    while not world.scheduler.is_idle:
        world.loop.step()
    assert asked
    assert set(asked) == {0}


def test_prompts_ahead_do_not_starve_what_is_forced() -> None:
    """A forced run needs room in a step as a prompt does; a long prompt of higher precedence leaves it some."""
    world = World(depth=1, chunk=4, pool=1 << 14, guides=Toys())
    world.send(submit("guided", [1, 2, 3], 60, notes={"toy": b"60"}))
    while len(world.outcomes["guided"].tokens) < 10:
        world.step()
    world.send(submit("long", list(range(10, 40)) * 40, 4, priority=1))
    world.drain()
    assert world.finished_order[0] == "guided"
