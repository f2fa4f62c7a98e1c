"""The arithmetic of `ramify bench`, against numbers worked out by hand."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.bench.arrivals import arrivals
from ramify.bench.goodput import Slo
from ramify.bench.record import Record
from ramify.bench.sse import Events, TooLong
from ramify.bench.stats import most_at_once, percentile, spread, tpot
from ramify.bench.summary import summarize
from ramify.core.errors import StartupError

STREAM = (
    b'\xef\xbb\xbfdata: {"a": 1}\r\n\r\n: keep-alive\n\ndata:two\ndata: lines\r\revent: x\nid: 5\n'
    b"data\n\ndata: [DONE]\n\n"
)
EVENTS = [b'{"a": 1}', b"two\nlines", b"", b"[DONE]"]


def test_events() -> None:
    assert Events().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_events_at_any_cuts(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    events = Events()
    assert [e for a, b in pairwise(edges) for e in events.feed(STREAM[a:b])] == EVENTS


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_events_at_every_cut(cut: int) -> None:
    events = Events()
    assert events.feed(STREAM[:cut]) + events.feed(STREAM[cut:]) == EVENTS


def test_events_byte_by_byte() -> None:
    events = Events()
    assert [e for at in range(len(STREAM)) for e in events.feed(STREAM[at : at + 1])] == EVENTS


@pytest.mark.parametrize("piece", [b"data: xxxxxxxx", b"data: x\n", b": no data at all", b"data\ndata: x\n"])
def test_an_event_that_does_not_end(piece: bytes) -> None:
    events = Events(longest=64)
    with pytest.raises(TooLong, match="longer than 64 bytes"):
        list(map(events.feed, [piece] * 65))


def test_a_last_event_without_its_blank_line() -> None:
    events = Events()
    assert events.feed(b"data: one") == []
    assert events.close() == [b"one"]
    assert Events().close() == []


def test_spread() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.count, found.mean, found.median, found.min, found.max) == (4, 2.5, 2.5, 1, 4)
    assert found.std == pytest.approx(math.sqrt(1.25))
    assert found.p90 == pytest.approx(3.7)
    assert found.p99 == pytest.approx(3.97)
    assert found.scaled(1000).p99 == pytest.approx(3970)
    assert spread([]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (1, 50, 90, 99):
        assert percentile(sorted(values), percent) == pytest.approx(cuts[percent - 1], abs=1e-6)


def test_time_per_token_leaves_out_the_first() -> None:
    assert tpot(latency=1.0, ttft=0.2, tokens=5) == pytest.approx(0.2)
    assert tpot(latency=1.0, ttft=1.0, tokens=1) is None


def test_most_at_once() -> None:
    assert most_at_once([(0, 2), (1, 3), (2, 4), (2.5, 2.6)]) == 3
    assert most_at_once([]) == 0


@pytest.mark.parametrize(("burstiness", "variation"), [(1.0, 1.0), (4.0, 0.5), (0.25, 2.0)])
def test_arrivals(burstiness: float, variation: float) -> None:
    """Mean gap 1 / rate; the coefficient of variation of a gamma distribution is 1 / sqrt(shape)."""
    times = arrivals(20_000, 10.0, burstiness, random.Random(3))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] == 0
    assert statistics.fmean(gaps) == pytest.approx(0.1, rel=0.05)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(variation, rel=0.05)
    assert arrivals(3, math.inf, 1.0, random.Random(0)) == [0, 0, 0]


def test_goodput_limits() -> None:
    slo = Slo.parse(["ttft:500", "tpot:50"])
    assert slo is not None
    assert slo.met(0.5, 0.05, 99)
    assert slo.met(0.4, None, 99)
    assert not slo.met(0.6, 0.01, 1)
    assert not slo.met(0.1, 0.06, 1)
    assert Slo.parse(["ttft:500,tpot:50"]) == Slo.parse(["tpot:50 ttft:500"]) == slo
    assert Slo.parse([]) is None
    for wrong in ("ttft", "ttft:x", "speed:5", "ttft:-1", "ttft:nan"):
        with pytest.raises(StartupError):
            Slo.parse([wrong])


def record(index: int, sent: float, first: float, last: float, **more: object) -> Record:
    given = {"prompt_tokens": 10, "output_tokens": 5, "asked_input": 10, "asked_output": 5, **more}
    return Record(index=index, user=0, turn=0, due=sent, sent=sent, ended=sent + last, first=first, last=last, **given)  # type: ignore[arg-type]


def test_summary() -> None:
    records = [
        record(0, 0.0, 0.2, 1.0, stamps=[0.2, 0.5, 1.0], cached_tokens=4),
        record(1, 0.5, 0.4, 2.4, stamps=[0.4, 2.4], cached_tokens=0),
        record(2, 1.0, 0.0, 0.1, error="503 queue full"),
    ]
    found = summarize(records, 4.0, interrupted=1, slo=Slo.parse(["ttft:300"]))
    assert (found.completed, found.failed, found.interrupted) == (2, 1, 1)
    assert (found.input_tokens, found.output_tokens, found.cached_tokens) == (20, 10, 4)
    assert found.output_tokens_per_s == pytest.approx(2.5)
    assert found.requests_per_s == pytest.approx(0.5)
    assert found.concurrency == pytest.approx((1.0 + 2.4 + 0.1) / 4)
    assert found.peak_concurrency == 2
    assert found.ttft_ms is not None
    assert found.ttft_ms.mean == pytest.approx(300)
    assert found.tpot_ms is not None
    assert found.tpot_ms.mean == pytest.approx((200 + 500) / 2)
    assert found.itl_ms is not None
    assert found.itl_ms.count == 3
    assert found.goodput is not None
    assert (found.goodput.met, found.goodput.share) == (1, pytest.approx(1 / 3))
    assert [(f.error, f.count) for f in found.errors] == [("503 queue full", 1)]
