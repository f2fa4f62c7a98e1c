"""A scheduler, a ledger, a loop and a fake executor, driven step by step and checked after each."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from ramify.adapters.registry import Registry
from ramify.cache.ledger import Ledger
from ramify.cache.state import StateShape
from ramify.cache.window import WindowShape
from ramify.core.finish import Finish
from ramify.core.params import SamplingParams
from ramify.engine.loop import Loop
from ramify.schedule.budget import StepBudget
from ramify.schedule.drafter import Drafter
from ramify.schedule.guide import Guides
from ramify.schedule.mode import ONE_MODE, Modes
from ramify.schedule.policy import make_policy
from ramify.schedule.request import Request
from ramify.schedule.scheduler import Scheduler
from ramify.wire.channel import inproc
from ramify.wire.messages import Abort, Replies, Submit
from ramify.wire.plan import LogprobsWanted
from ramify.wire.result import HiddenStates, TokenLogprobs
from ramify.worker.fake import APART, FakeExecutor, next_token

VOCAB = 50
EOS = 7


def submit(
    rid: str, tokens: list[int], max_new: int = 16, *, params: dict[str, Any] | None = None, **more: Any
) -> Submit:
    more = {"may_shorten": True, "seed": 1, **more}
    return Submit(rid, 0, tokens, SamplingParams(**(params or {})), max_new, **more)


def expected(tokens: list[int], max_new: int, ignore_eos: bool = False, adapter: int = 0) -> list[int]:
    """What an executor without pages, batches or steps would generate, under the adapter with that id."""
    sequence = list(tokens)
    while len(sequence) - len(tokens) < max_new:
        sequence.append(next_token([token + APART * adapter for token in sequence], VOCAB))
        if sequence[-1] == EOS and not ignore_eos:
            break
    return sequence[len(tokens) :]


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    cached: int = 0
    preempted: int = 0
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    hidden: list[HiddenStates] = field(default_factory=list)


@dataclass
class World:
    """`pool` and `chunk` in tokens. With `prove`, every step proves that pages are conserved, else the last does."""

    depth: int = 0
    page_size: int = 1
    pool: int = 4096
    chunk: int = 512
    rows: int = 8
    policy: str = "fcfs"
    reuse: bool = True
    drafter: Drafter | None = None
    executor_class: type[FakeExecutor] = FakeExecutor
    ledger_class: type[Ledger] = Ledger
    scheduler_class: type[Scheduler] = Scheduler
    guides: Guides | None = None
    adapters: Registry | None = None
    max_queued: int | None = None
    beside: WindowShape | StateShape | None = None
    prove: bool = True
    whole: bool = False
    modes: Modes = ONE_MODE

    def __post_init__(self) -> None:
        pages = self.pool // self.page_size
        self.executor = self.executor_class(pages, self.page_size, VOCAB, beside=self.beside)
        self.ledger = self.ledger_class(
            pages, self.page_size, reuse=self.reuse, beside=self.beside, freed=self.executor.poison
        )
        self.scheduler = self.scheduler_class(
            self.ledger,
            StepBudget(self.chunk, self.rows, self.whole),
            eos_ids=[EOS],
            policy=make_policy(self.policy),
            drafter=self.drafter,
            guides=self.guides,
            adapters=self.adapters,
            modes=self.modes,
            gates=[self.adapters] if self.adapters is not None else [],
            guided_ahead=1 if self.depth <= 1 else 0,
            max_queued=self.max_queued,
        )
        if self.adapters is not None:
            self.adapters.watch(self.scheduler.requests.values)
        self.engine_end, self.client = inproc()
        self.loop = Loop(self.scheduler, self.executor, self.engine_end, depth=self.depth)
        self.outcomes: dict[str, Outcome] = {}
        self.finished_order: list[str] = []

    def send(self, *messages: Submit | Abort) -> None:
        for message in messages:
            self.client.send(message)
            if isinstance(message, Submit):
                self.outcomes.setdefault(message.rid, Outcome())

    def step(self) -> None:
        self.loop._stuck = False  # never block: there is nobody to wake this loop
        self.loop.step()
        if self.prove:
            self.check()
        self.read()

    def check(self) -> None:
        wrong = self.ledger.check()
        assert not wrong, wrong

    def read(self) -> None:
        while not self.client._outbox.empty():  # type: ignore[attr-defined]
            message = self.client.receive()
            assert isinstance(message, Replies)
            for reply in message.items:
                outcome = self.outcomes[reply.rid]
                outcome.tokens += reply.tokens
                outcome.cached, outcome.preempted = reply.cached, reply.preempted
                if reply.prompt_logprobs is not None:
                    outcome.prompt_logprobs.append(reply.prompt_logprobs)
                if reply.hidden is not None:
                    outcome.hidden.append(reply.hidden)
                if reply.finish is not None:
                    assert outcome.finish is None, f"{reply.rid} ended twice"
                    outcome.finish = reply.finish
                    self.finished_order.append(reply.rid)

    def drain(self, limit: int = 20_000) -> None:
        """Step until nothing runs; then every page is free or in the cache."""
        for _ in range(limit):
            self.step()
            if self.scheduler.is_idle and not self.loop.flying:
                break
        else:
            raise AssertionError("the loop never became idle")
        self.check()
        assert self.ledger.used == 0
        assert not self.ledger.in_limbo
        assert len(self.scheduler._free_slots) == self.rows

    def request(self, rid: str) -> Request:
        return self.scheduler.requests[rid]


def prompts(rnd: random.Random, count: int, longest: int = 80) -> list[list[int]]:
    """Prompts of which many share a prefix, some of them a long one, few a whole page boundary."""
    made: list[list[int]] = []
    for _ in range(count):
        stem = rnd.choice(made)[: rnd.randrange(1, longest)] if made and rnd.random() < 0.7 else []
        made.append((stem + [rnd.randrange(VOCAB) for _ in range(rnd.randrange(1, 40))])[:longest])
    return made


__all__ = ["EOS", "VOCAB", "LogprobsWanted", "Outcome", "World", "expected", "prompts", "submit"]
