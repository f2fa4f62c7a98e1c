"""Numbers about numbers. Pure, and the same for every unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """How a quantity is distributed. `std` is that of the whole population, as NumPy has it by default."""

    count: int
    mean: float
    median: float
    p90: float
    p99: float
    std: float
    min: float
    max: float

    def scaled(self, factor: float) -> Spread:
        """The same in another unit."""
        values = {name: getattr(self, name) * factor for name in self.__struct_fields__ if name != "count"}
        return Spread(count=self.count, **values)


def spread(values: Iterable[float]) -> Spread | None:
    """None where there are no values."""
    found = sorted(values)
    if not found:
        return None
    mean = math.fsum(found) / len(found)
    variance = math.fsum((value - mean) ** 2 for value in found) / len(found)
    middle, p90, p99 = (percentile(found, percent) for percent in (50, 90, 99))
    return Spread(len(found), mean, middle, p90, p99, math.sqrt(variance), found[0], found[-1])


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Between the two nearest of the sorted values, linearly: 0 is the smallest, 100 the largest."""
    place = (len(ascending) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (place - below)


def median(values: Iterable[float]) -> float:
    return percentile(sorted(values), 50)


def tpot(latency: float, ttft: float, tokens: int) -> float | None:
    """Time per output token after the first; None where there is none after it."""
    return (latency - ttft) / (tokens - 1) if tokens > 1 else None


def gaps(stamps: Sequence[float]) -> list[float]:
    """Times between neighbours."""
    return [later - earlier for earlier, later in pairwise(stamps)]


def first_difference(one: Sequence[int], two: Sequence[int]) -> int | None:
    """How many tokens are equal before the first that is not; None where all are."""
    return next((place for place, (a, b) in enumerate(zip_longest(one, two)) if a != b), None)


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many of the spans (begin, end) overlap at most; one that ends when another begins does not overlap it."""
    edges = sorted(edge for begin, end in spans for edge in ((begin, 1), (end, -1)))
    open_now = most = 0
    for _, change in edges:
        open_now += change
        most = max(most, open_now)
    return most
