"""When requests arrive."""

from __future__ import annotations

import math
from itertools import accumulate, repeat
from random import Random


def arrivals(count: int, rate: float, burstiness: float, random: Random) -> list[float]:
    """Seconds from the start at which each of `count` requests is sent; the first at 0.

    Gaps are gamma distributed with mean 1 / `rate` and variance 1 / (`burstiness` * `rate`**2): a Poisson process at a
    burstiness of 1. An infinite rate sends all at once.
    """
    if math.isinf(rate):
        return [0.0] * count
    gaps = [random.gammavariate(shape, 1 / (rate * shape)) for shape in repeat(burstiness, count - 1)]
    return list(accumulate(gaps, initial=0.0))
