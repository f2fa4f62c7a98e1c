"""From the records of a run to its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from ramify.bench.goodput import Slo
from ramify.bench.record import Record
from ramify.bench.stats import Spread, most_at_once, spread

ERRORS = 5  # different error texts that are shown


class Goodput(msgspec.Struct, frozen=True):
    """`met` requests kept to all limits, which is `share` of all that ended, failed ones included."""

    slo: str
    met: int
    share: float
    requests_per_s: float


class Failure(msgspec.Struct, frozen=True):
    error: str
    count: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, rates and times are those of completed requests. `concurrency` counts failed ones too, while they lasted.

    `cached_tokens` is None where the server does not say; `reported_prompt_tokens` are those of the requests for which
    it did. Times are in ms.
    """

    duration_s: float
    completed: int
    failed: int
    interrupted: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int | None
    reported_prompt_tokens: int
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    concurrency: float
    peak_concurrency: int
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    goodput: Goodput | None
    errors: list[Failure]


def summarize(records: Sequence[Record], duration: float, interrupted: int = 0, slo: Slo | None = None) -> Summary:
    """`duration` in seconds, from the first request's start to the last one's end."""
    good = [record for record in records if record.ok]
    seconds = max(duration, 1e-9)
    read = sum(record.prompt_tokens or 0 for record in good)
    written = sum(record.tokens for record in good)
    reporting = [record for record in good if record.cached_tokens is not None]
    return Summary(
        duration_s=duration,
        completed=len(good),
        failed=len(records) - len(good),
        interrupted=interrupted,
        input_tokens=read,
        output_tokens=written,
        cached_tokens=sum(record.cached_tokens or 0 for record in reporting) if reporting else None,
        reported_prompt_tokens=sum(record.prompt_tokens or 0 for record in reporting),
        requests_per_s=len(good) / seconds,
        input_tokens_per_s=read / seconds,
        output_tokens_per_s=written / seconds,
        total_tokens_per_s=(read + written) / seconds,
        concurrency=sum(record.ended - record.sent for record in records) / seconds,
        peak_concurrency=most_at_once((record.sent, record.ended) for record in records),
        ttft_ms=_ms(spread(record.ttft for record in good)),
        tpot_ms=_ms(spread(record.tpot for record in good if record.tpot is not None)),
        itl_ms=_ms(spread(gap for record in good for gap in record.gaps)),
        e2e_ms=_ms(spread(record.latency for record in good)),
        goodput=goodput(records, seconds, slo) if slo is not None else None,
        errors=failures(records),
    )


def goodput(records: Sequence[Record], seconds: float, slo: Slo) -> Goodput:
    met = sum(record.ok and slo.met(record.ttft, record.tpot, record.latency) for record in records)
    return Goodput(str(slo), met, met / len(records) if records else 0.0, met / seconds)


def failures(records: Sequence[Record]) -> list[Failure]:
    """The most frequent errors first."""
    found = Counter(record.error for record in records if record.error is not None)
    return [Failure(error, count) for error, count in found.most_common(ERRORS)]


def _ms(found: Spread | None) -> Spread | None:
    return found.scaled(1000) if found is not None else None
