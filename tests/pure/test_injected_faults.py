"""The checks can fail: a fault put in on purpose is caught."""

from __future__ import annotations

import random
from typing import Any

import pytest
from world import World, expected, prompts, submit

from ramify.cache.ledger import Lease, Ledger
from ramify.schedule.scheduler import Scheduler
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult
from ramify.worker.fake import FakeExecutor


class DropsCopies(FakeExecutor):
    def copy(self, group: int, source: int, target: int) -> None: ...


class FreesEarly(Ledger):
    """Gives pages back at once, steps in flight or not."""

    def close(self, lease: Lease, key: bytes, computed: int, last_step: int) -> None:
        super().close(lease, key, computed, last_step=0)


class PromisesTooMuch(Ledger):
    """Publishes the page that is still being written."""

    def publish(self, lease: Lease, key: bytes, computed: int) -> None:
        super().publish(lease, key + bytes(64), min(computed + self.page_size, len(lease.pages) * self.page_size))


class KeepsEpoch(Scheduler):
    """Forgets to tell one stay of a request from the next."""

    def plan(self) -> Plan | None:
        self._epochs = 0
        return super().plan()


def caught(**faulty: Any) -> bool:
    """Does any of a few random runs notice?"""
    for seed in range(30):
        rnd = random.Random(seed)
        world = World(pool=192, rows=6, chunk=24, **faulty)
        made = prompts(rnd, 12, longest=60)
        try:
            for number, tokens in enumerate(made):
                world.send(submit(f"r{number}", tokens, 40))
                for _ in range(rnd.randrange(4)):
                    world.step()
            world.drain(limit=3000)
        except (AssertionError, KeyError, IndexError):
            return True
        if world.executor.damage:
            return True
        if any(world.outcomes[f"r{n}"].tokens != expected(t, 40) for n, t in enumerate(made)):
            return True
    return False


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_without_faults_nothing_is_caught(depth: int) -> None:
    assert not caught(depth=depth, page_size=16)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_dropped_copy_is_caught(depth: int) -> None:
    assert caught(depth=depth, page_size=16, executor_class=DropsCopies)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("page_size", [1, 16])
def test_an_early_free_is_caught(depth: int, page_size: int) -> None:
    assert caught(depth=depth, page_size=page_size, ledger_class=FreesEarly)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_stale_epoch_is_caught(depth: int) -> None:
    assert caught(depth=depth, page_size=16, scheduler_class=KeepsEpoch)


def test_publishing_uncommitted_tokens_is_caught() -> None:
    assert caught(depth=1, page_size=16, ledger_class=PromisesTooMuch)


def test_a_leaked_page_is_caught() -> None:
    world = World()
    world.ledger.pool.take(1)
    assert "page 1 is in 0 places" in world.ledger.check()[0]


def test_a_page_in_two_places_is_caught() -> None:
    world = World()
    world.ledger.pool.give([3])
    assert "page 3 is in 2 places" in world.ledger.check()[0]


class FailsToApply(FakeExecutor):
    """Now and then a step raises before any of it is done, its copies and grants included."""

    lots = random.Random(5)
    failed = 0

    def run(self, plan: Plan) -> StepResult:
        if plan.opened and self.lots.random() < 0.2:
            self.failed += 1
            for slot in plan.closed:
                self.slots.pop(slot, None)
            raise RuntimeError("no")
        return super().run(plan)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_step_that_fails_before_it_is_applied_changes_no_answer(depth: int) -> None:
    failed = 0
    for seed in range(20):
        rnd = random.Random(seed)
        world = World(pool=192, rows=6, chunk=24, page_size=16, depth=depth, executor_class=FailsToApply)
        made = prompts(rnd, 12, longest=60)
        for number, tokens in enumerate(made):
            world.send(submit(f"r{number}", tokens, 40))
            for _ in range(rnd.randrange(4)):
                world.step()
        world.drain(limit=3000)
        assert not world.executor.damage
        assert isinstance(world.executor, FailsToApply)
        failed += world.executor.failed
        for number, tokens in enumerate(made):
            outcome = world.outcomes[f"r{number}"]
            assert outcome.finish is not None
            wanted = expected(tokens, 40)
            if outcome.finish.type == "abort":
                assert outcome.tokens == wanted[: len(outcome.tokens)]
            else:
                assert outcome.tokens == wanted
    assert failed > 20
