"""What a model computed wrongly is never found by another request: faults are told for every chunk of a prompt."""

from __future__ import annotations

import random
from typing import Any

import pytest
from world import VOCAB, World, expected, prompts, submit

from ramify.wire.plan import Plan, Row
from ramify.wire.result import StepResult
from ramify.worker.fake import FakeExecutor

BAD = VOCAB + 1  # is in prompts only: nobody generates it


class SpreadsNan(FakeExecutor):
    """`BAD` computes to NaN, and so does every later position that reads it. Which rows it says that of, `tells` says:
    the runner tells of all of them.
    """

    tells = staticmethod(lambda row: True)

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.nan: set[tuple[int, int]] = set()  # (page, offset)
        self.poisoned = 0  # rows that read NaN which was not of their own making

    def run(self, plan: Plan) -> StepResult:
        result = super().run(plan)
        for index, row in enumerate(plan.rows):
            if self.is_broken(row) and self.tells(row):
                result.faults[index] = "NaN"
        return result

    def is_broken(self, row: Row) -> bool:
        slot = self.slots[row.slot]
        places = [(slot.pages[p // self.page_size], p % self.page_size) for p in range(slot.length)]
        broken = [at for at, place in enumerate(places) if place in self.nan]
        if not broken:
            return False
        self.poisoned += BAD not in slot.tokens[: slot.length]
        self.nan |= set(places[max(broken[0], slot.length - row.count) :])
        return True

    def write(self, slot, position: int) -> None:  # type: ignore[no-untyped-def]
        super().write(slot, position)
        self._mark((slot.pages[position // self.page_size], position % self.page_size), slot.tokens[position] == BAD)

    def copy(self, group: int, source: int, target: int) -> None:
        super().copy(group, source, target)
        for offset in range(self.page_size):
            self._mark((target, offset), (source, offset) in self.nan)

    def _mark(self, place: tuple[int, int], broken: bool) -> None:
        (self.nan.add if broken else self.nan.discard)(place)


class TellsAtTheEnd(SpreadsNan):
    """As it was once: a chunk that does not sample says nothing."""

    tells = staticmethod(lambda row: row.sample)


def play(seed: int, depth: int, page_size: int, executor_class: type[SpreadsNan]) -> World:
    rnd = random.Random(seed)
    world = World(pool=512, rows=6, chunk=16, page_size=page_size, depth=depth, executor_class=executor_class)
    for number, tokens in enumerate(prompts(rnd, 14, longest=100)):
        bad = rnd.random() < 0.4
        made = [*tokens[: rnd.randrange(len(tokens))], BAD, *tokens] if bad else tokens
        world.send(submit(f"{'bad' if bad else 'good'}{number}", made, 12))
        if number % 2:  # the same beginning, up to the page that goes wrong and past it, and one without
            world.send(submit(f"{'bad' if bad else 'good'}{number}x", [*made, 3, 5], 12))
        for _ in range(rnd.randrange(4)):
            world.step()
    world.drain(limit=3000)
    return world


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("page_size", [1, 16])
def test_nan_ends_whoever_asked_for_it_and_reaches_nobody_else(depth: int, page_size: int) -> None:
    for seed in range(20):
        world = play(seed, depth, page_size, SpreadsNan)
        assert isinstance(world.executor, SpreadsNan)
        assert not world.executor.poisoned
        assert not world.executor.damage
        for rid, outcome in world.outcomes.items():
            assert outcome.finish is not None
            assert (outcome.finish.type == "abort") == rid.startswith("bad"), rid


@pytest.mark.parametrize("page_size", [1, 16])
def test_pages_of_a_prompt_with_nan_are_not_in_the_cache(page_size: int) -> None:
    cached = {}
    for executor in (SpreadsNan, TellsAtTheEnd):
        world = World(chunk=16, page_size=page_size, executor_class=executor)
        world.send(submit("first", [*range(20), BAD, *range(60)], 4))
        world.drain()
        world.send(submit("again", [*range(20), BAD, *range(60)], 4))
        world.drain()
        cached[executor] = world.outcomes["again"].cached
    assert cached[SpreadsNan] == 16
    assert cached[TellsAtTheEnd] > 16  # so that this test can fail


def test_an_answer_after_a_clean_chunk_is_unchanged() -> None:
    world = World(chunk=16, executor_class=SpreadsNan)
    world.send(submit("bad", [*range(20), BAD, *range(60)], 4), submit("good", [*range(20), *range(9)], 8))
    world.drain()
    assert world.outcomes["good"].tokens == expected([*range(20), *range(9)], 8)
