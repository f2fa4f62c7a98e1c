"""Grammars that meet a limit, or get lost with another row: no one asks about what has ended, no one else notices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guides import allowed_after, expected, free
from world import VOCAB, World, prompts, submit

from ramify.core.finish import Finish
from ramify.grammar.constraint import NOTE
from ramify.grammar.gate import Grammars
from ramify.grammar.guides import GrammarGuides
from ramify.schedule.gate import GO, Verdict, Wait

WORDS = -(-VOCAB // 32)


class Strict(Grammars):
    """The toy language behind the interface of `Grammars`, which trips now and then and checks what it is asked."""

    def __init__(self, lots: random.Random, trips: float, loses: float) -> None:
        self.lots, self.trips, self.loses = lots, trips, loses
        self.ended: set[Any] = set()
        self.lost: set[Any] = set()
        self.found: dict[Any, range] = {}  # at how many tokens what follows is known since the last look
        self.tripped = 0

    def ask(self, request: Any) -> list[int]:
        """What may follow."""
        assert request not in self.ended, "it was said to have ended"
        return allowed_after(request.tokens, int(request.notes[NOTE]))

    def trip(self, request: Any) -> Finish:
        self.ended.add(request)
        self.tripped += 1
        return Finish.abort("too hard", 400, "grammar_limit")

    def verdict(self, request: Any, running: Sequence[Any]) -> Verdict:
        self.ask(request)
        if request in self.lost and self.lots.random() < 0.7:
            return Wait("lost")
        self.lost.discard(request)
        return GO

    def is_lost(self, request: Any) -> bool:
        self.ask(request)
        return request in self.lost

    def look(self, requests: Sequence[Any]) -> list[tuple[Any, Finish]]:
        ended = []
        for request in requests:
            self.ask(request)
            if self.is_ready(request) or request in self.lost:
                continue
            if self.lots.random() < self.trips:
                ended.append((request, self.trip(request)))
            elif self.lots.random() < self.loses:
                self.lost.add(request)
            else:
                said = len(request.tokens)
                self.found[request] = range(said, said + len(self.run(request)) + 1)
        return ended

    def follow(self, request: Any) -> Finish | None:
        assert request not in self.ended, "it was said to have ended"
        length = int(request.notes[NOTE])
        assert request.tokens[-1] in allowed_after(request.tokens[:-1], length)
        if len(request.tokens) < length and self.lots.random() < self.trips:
            return self.trip(request)
        return Finish.stop(request.tokens[-1]) if len(request.tokens) == length else None

    def is_ready(self, request: Any) -> bool:
        return len(request.tokens) in self.found.get(request, ()) and request not in self.lost

    def run(self, request: Any) -> list[int]:
        found: list[int] = []
        while len(one := allowed_after(request.tokens + found, int(request.notes[NOTE]))) == 1:
            found += one
        return found

    def forced(self, request: Any) -> list[int]:
        self.ask(request)
        assert self.is_ready(request)
        return self.run(request)

    def mask(self, request: Any, out: Any) -> None:
        allowed = self.ask(request)
        assert self.is_ready(request)
        out[:] = 0
        bits = np.zeros(WORDS * 32, np.uint8)
        bits[allowed] = 1
        out[:] = np.packbits(bits, bitorder="little").view(np.int32)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(0, 3),
    pool=st.sampled_from([208, 4096]),
    chunk=st.sampled_from([3, 512]),
    trips=st.sampled_from([0.0, 0.02]),
    loses=st.sampled_from([0.0, 0.1]),
)
def test_what_has_ended_is_not_asked_about_and_what_is_lost_comes_back(
    seed: int, depth: int, pool: int, chunk: int, trips: float, loses: float
) -> None:
    rnd = random.Random(seed)
    grammars = Strict(rnd, trips, loses)
    guides = GrammarGuides(grammars, VOCAB)
    world = World(depth=depth, page_size=4, pool=pool, chunk=chunk, rows=4, guides=guides)
    world.scheduler.gates.append(guides)
    wanted: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts(rnd, 8)):
        rid, length = f"r{number}", rnd.randrange(1, 40)
        notes = {NOTE: str(length).encode()} if rnd.random() < 0.8 else {}
        world.send(submit(rid, prompt, 40, notes=notes))
        wanted[rid] = expected(prompt, length, 40) if notes else free(prompt, 40)
        for _ in range(rnd.randrange(4)):
            world.step()
    world.drain()
    assert not world.executor.damage
    failed = 0
    for rid, outcome in world.outcomes.items():
        assert outcome.finish is not None
        failed += outcome.finish.is_error
        end = len(outcome.tokens) if outcome.finish.is_error else None
        assert outcome.tokens == wanted[rid][:end]
    assert failed == grammars.tripped


@pytest.mark.parametrize("depth", [0, 1])
def test_one_question_per_step(depth: int) -> None:
    """However many rows are guided, and whether their tokens may be jumped over or not."""
    grammars = Strict(random.Random(0), 0, 0)
    guides = GrammarGuides(grammars, VOCAB)
    world = World(depth=depth, guides=guides)
    found: list[int] = []
    look = grammars.look

    def counted(requests: Sequence[Any]) -> list[tuple[Any, Finish]]:
        found.append(sum(not grammars.is_ready(request) for request in requests))
        return look(requests)

    grammars.look = counted  # type: ignore[method-assign]
    for number in range(6):
        world.send(submit(f"r{number}", [number, 3], 60, notes={NOTE: b"60"}))
    world.step()
    while not world.scheduler.is_idle:
        found.clear()
        world.step()
        assert sum(count > 0 for count in found) <= 1
    assert all(len(outcome.tokens) == 60 for outcome in world.outcomes.values())


def test_the_checks_can_fail() -> None:
    grammars = Strict(random.Random(0), 1.0, 0)
    guides = GrammarGuides(grammars, VOCAB)
    asked = guides.guide(submit("r", [1], 5, notes={NOTE: b"5"}))
    grammars.look([asked])
    with pytest.raises(AssertionError, match="ended"):
        asked.forced(5)
