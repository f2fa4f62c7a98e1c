"""Engines side by side: the same prompts for each, in turns, and what came of it. Knows no engine and no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import msgspec

from ramify.bench.options import OfflineOptions
from ramify.bench.stats import first_difference

Ids = list[int]
FIRST_WORD = 3  # ids below are special in most vocabularies

Clock = Callable[[], float]


class Contestant(Protocol):
    """An engine that generates greedily, to the full length whatever the model says."""

    name: str

    def ready(self) -> None:
        """Forget what earlier prompts left behind; not timed."""

    def generate(self, prompts: Sequence[Ids], length: int) -> list[Ids]:
        """`length` tokens after each prompt, all prompts together."""


class Sample(msgspec.Struct, frozen=True):
    """One measurement of one batch. `first_s` are the seconds of a call for one token per row, `total_s` those of a
    call for all of them; both begin with prompts that no cache has seen.
    """

    engine: str
    batch: int
    prompt_tokens: int
    output_tokens: int
    first_s: float
    total_s: float

    @property
    def prefill(self) -> float:
        """Prompt tokens per second until every row has its first token."""
        return self.prompt_tokens / self.first_s

    @property
    def decode(self) -> float | None:
        """Tokens per second after the first ones; None where noise is greater than what they take."""
        seconds = self.total_s - self.first_s
        return (self.output_tokens - self.batch) / seconds if seconds > 0 else None

    @property
    def output(self) -> float:
        """Output tokens per second of the whole call, prompts included."""
        return self.output_tokens / self.total_s


class Agreement(msgspec.Struct):
    """Of `rows` outputs, for how many every engine gave the same tokens; the others `part` after so many equal ones."""

    rows: int = 0
    same: int = 0
    part: list[int] = msgspec.field(default_factory=list)

    def compare(self, outputs: Sequence[Sequence[Ids]]) -> None:
        """Outputs of one batch, engine by engine."""
        for first, *others in zip(*outputs, strict=True):
            places = [place for other in others if (place := first_difference(first, other)) is not None]
            self.rows += 1
            self.same += not places
            self.part += [min(places)] if places else []


@dataclass
class Results:
    """`agreement` stays empty where there is one engine."""

    engines: list[str]
    batches: list[int]
    samples: list[Sample] = field(default_factory=list)
    agreement: Agreement = field(default_factory=Agreement)

    def of(self, engine: str, batch: int) -> list[Sample]:
        return [sample for sample in self.samples if (sample.engine, sample.batch) == (engine, batch)]

    def rates(self, engine: str, batch: int, measure: str) -> list[float]:
        """One for each run; those that could not be told are left out."""
        values = [getattr(sample, measure) for sample in self.of(engine, batch)]
        return [value for value in values if value is not None]

    def ratios(self, batch: int, measure: str) -> list[float]:
        """The first engine's rate over the second's, run by run; nothing where there is one engine."""
        if len(self.engines) < 2:
            return []
        sides = ([getattr(sample, measure) for sample in self.of(engine, batch)] for engine in self.engines[:2])
        return [one / two for one, two in zip(*sides, strict=True) if one is not None and two is not None]


def measure(
    options: OfflineOptions,
    contestants: Sequence[Contestant],
    vocab: int,
    say: Callable[[str], None],
    clock: Clock = time.perf_counter,
) -> Results:
    """Every batch size in turn, after a run to warm up. Within a run the engines follow each other closely, and the one
    that begins changes from run to run: a slow minute of the machine hits both.
    """
    random = Random(options.seed)
    results = Results([contestant.name for contestant in contestants], options.batch_sizes)
    for batch in options.batch_sizes:
        for run in range(options.repeat + 1):
            shape = (batch, options.input_len, vocab)
            prompts = (_drawn(random, *shape), _drawn(random, *shape))
            order = contestants if run % 2 else contestants[::-1]
            found = {each.name: sample(each, prompts, options.output_len, clock) for each in order}
            if run:
                _keep(results, [found[name] for name in results.engines])
                rates = (f"{name} {found[name][0].output:,.1f}" for name in results.engines)
                say(f"batch {batch}, run {run} of {options.repeat}: {', '.join(rates)} output tokens/s")
    return results


def _drawn(random: Random, batch: int, length: int, vocab: int) -> list[Ids]:
    return [[random.randrange(FIRST_WORD, vocab) for _ in range(length)] for _ in range(batch)]


def _keep(results: Results, found: Sequence[tuple[Sample, list[Ids]]]) -> None:
    results.samples += [sample for sample, _ in found]
    if len(found) > 1:
        results.agreement.compare([outputs for _, outputs in found])


def sample(
    contestant: Contestant, prompts: tuple[list[Ids], list[Ids]], length: int, clock: Clock
) -> tuple[Sample, list[Ids]]:
    """One measurement, and the outputs of the longer call. The two calls have prompts of their own."""
    brief, whole = prompts
    first, _ = _timed(contestant, brief, 1, clock)
    total, outputs = _timed(contestant, whole, length, clock)
    assert [len(row) for row in outputs] == [length] * len(whole), f"{contestant.name} did not keep to the length"
    tokens = sum(map(len, whole))
    return Sample(contestant.name, len(whole), tokens, length * len(whole), first, total), outputs


def _timed(contestant: Contestant, prompts: list[Ids], length: int, clock: Clock) -> tuple[float, list[Ids]]:
    contestant.ready()
    start = clock()
    outputs = contestant.generate(prompts, length)
    return clock() - start, outputs
