"""`ramify bench offline` without an engine: who runs when, with what, and what the clock makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ramify.bench.contest import Agreement, Ids, Results, Sample, measure
from ramify.bench.offline_report import agreement, spread
from ramify.bench.options import OfflineOptions
from ramify.bench.stats import first_difference

VOCAB = 50


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Robot:
    """Needs `first` seconds for the first token of a call and `each` for each further one; says `token`, and `odd` in
    place of the last where a batch has several rows.
    """

    name: str
    clock: Clock
    first: float
    each: float
    token: int = 7
    odd: int = 7
    calls: list[tuple[int, int]] = field(default_factory=list)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    rested: bool = False

    def ready(self) -> None:
        self.rested = True
        self.clock.now += 1000  # must not be measured

    def generate(self, prompts: Sequence[Ids], length: int) -> list[Ids]:
        assert self.rested
        self.rested = False
        self.clock.now += self.first + self.each * (length - 1)
        self.calls.append((len(prompts), length))
        self.prompts += map(tuple, prompts)
        rows = [[self.token] * length for _ in prompts]
        if len(prompts) > 1:
            rows[0][-1] = self.odd
        return rows


def contest(options: OfflineOptions, **more: int) -> tuple[Robot, Robot, Results, list[str]]:
    clock, said = Clock(), []
    one, two = Robot("one", clock, 2.0, 0.5), Robot("two", clock, 4.0, 0.25, **more)
    results = measure(options, [one, two], VOCAB, said.append, clock)
    return one, two, results, said


OPTIONS = OfflineOptions(input_len=10, output_len=5, batch_size="1,4", repeat=2)


def test_rates() -> None:
    """Batch 4: 40 prompt tokens in 2 s; 16 more tokens in 4 * 0.5 s; 20 in all in 4 s."""
    _, _, results, _ = contest(OPTIONS)
    assert results.rates("one", 4, "prefill") == [20.0, 20.0]
    assert results.rates("one", 4, "decode") == [8.0, 8.0]
    assert results.rates("one", 4, "output") == [5.0, 5.0]
    assert results.rates("one", 4, "total_s") == [4.0, 4.0]
    assert results.ratios(4, "prefill") == [2.0, 2.0]
    assert results.ratios(4, "decode") == [0.5, 0.5]
    assert results.ratios(1, "output") == [pytest.approx(5 / 4), pytest.approx(5 / 4)]


def test_each_run_warms_up_measures_and_changes_who_begins() -> None:
    one, two, results, said = contest(OPTIONS)
    assert one.calls == two.calls == [(1, 1), (1, 5)] * 3 + [(4, 1), (4, 5)] * 3
    assert len(results.samples) == 2 * 2 * 2  # the warm-up is not kept
    assert len(said) == 4
    assert said[0] == "batch 1, run 1 of 2: one 1.2, two 1.0 output tokens/s"


def test_who_begins_changes() -> None:
    clock, order = Clock(), []

    class Herald(Robot):
        def generate(self, prompts: Sequence[Ids], length: int) -> list[Ids]:
            order.append(self.name) if length > 1 else None
            return super().generate(prompts, length)

    robots = [Herald(name, clock, 1.0, 1.0) for name in "ab"]
    measure(OfflineOptions(input_len=3, output_len=2, batch_size="1", repeat=3), robots, VOCAB, lambda _: None, clock)
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"


def test_prompts_are_the_same_for_all_and_never_seen_before() -> None:
    one, two, _, _ = contest(OPTIONS)
    assert one.prompts == two.prompts
    assert len(set(one.prompts)) == len(one.prompts) == 3 * 2 * (1 + 4)
    assert all(len(prompt) == 10 for prompt in one.prompts)
    assert all(3 <= token < VOCAB for prompt in one.prompts for token in prompt)
    again, _, _, _ = contest(OPTIONS)
    assert again.prompts == one.prompts


def test_whether_they_said_the_same() -> None:
    _, _, results, _ = contest(OPTIONS)
    assert (results.agreement.rows, results.agreement.same, results.agreement.part) == (10, 10, [])
    assert agreement(results.agreement, results.engines) == "equal, token by token, in all 10 rows of one and two"
    _, _, results, _ = contest(OPTIONS, odd=8)
    assert (results.agreement.rows, results.agreement.same, results.agreement.part) == (10, 8, [4, 4])
    assert agreement(results.agreement, results.engines) == (
        "equal in 8 of 10 rows of one and two; the others part after 4 equal tokens"
    )


def test_agreement_of_rows() -> None:
    found = Agreement()
    found.compare([[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 6, 6]], [[1, 2, 4], [5, 5, 6]]])
    assert (found.rows, found.same, found.part) == (2, 0, [2, 0])
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 2, 3]) == 2


def test_one_engine_has_nothing_to_be_compared_with() -> None:
    clock = Clock()
    results = measure(OPTIONS, [Robot("one", clock, 1.0, 1.0)], VOCAB, lambda _: None, clock)
    assert results.agreement.rows == 0
    assert results.ratios(1, "output") == []


def test_noise_greater_than_decoding_is_no_rate() -> None:
    """The call for one token took longer than that for all of them."""
    sample = Sample("one", 1, 10, 5, first_s=2.0, total_s=1.9)
    assert sample.decode is None
    results = Results(["one", "two"], [1], [sample, Sample("two", 1, 10, 5, 1.0, 2.0)])
    assert results.rates("one", 1, "decode") == results.ratios(1, "decode") == []
    assert spread([]) == "-"


def test_an_engine_that_stops_early_is_not_measured() -> None:
    class Lazy(Robot):
        def generate(self, prompts: Sequence[Ids], length: int) -> list[Ids]:
            return [row[:3] for row in super().generate(prompts, length)]

    clock = Clock()
    with pytest.raises(AssertionError, match="did not keep to the length"):
        measure(OPTIONS, [Lazy("lazy", clock, 1.0, 1.0)], VOCAB, lambda _: None, clock)


def test_a_median_and_its_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00-3.00)"
    assert spread([1234.6]) == "1,235"
    assert spread([0.5, 0.25], digits=2) == "0.38 (0.25-0.50)"
