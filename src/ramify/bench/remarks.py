"""What a reader of the numbers has to know: where they are estimates, and where the run was not what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ramify.bench.datasets import Workload
from ramify.bench.options import LoadOptions
from ramify.bench.record import Record
from ramify.bench.stats import percentile
from ramify.bench.words import Source

LATE = 0.05  # seconds behind schedule that change what was measured
SHARED = 0.1  # of the prompt tokens in the cache, from which it is no accident
SEVERAL = 1.05  # tokens per chunk from which gaps between chunks are not times per token


def remarks(records: Sequence[Record], workload: Workload, source: Source, load: LoadOptions) -> list[str]:
    good = [record for record in records if record.ok]
    found = [
        *workload.notes,
        _inexact(source),
        _input(good),
        _reused(good, workload),
        _early(good),
        _counted(good),
        _chunks(good),
        _unsent(records, workload),
        _late(records) if load.max_concurrency is None and math.isfinite(load.request_rate) else None,
    ]
    return [remark for remark in found if remark is not None]


def _inexact(source: Source) -> str | None:
    if source.exact:
        return None
    return "prompt lengths are approximate: the model's tokenizer is not here (--tokenizer DIR makes them exact)"


def _input(good: Sequence[Record]) -> str | None:
    """A chat template adds tokens; anything else would be a mistake of ours, and shows here."""
    pairs = [(r.asked_input, r.prompt_tokens) for r in good if r.asked_input and r.prompt_tokens is not None]
    if all(asked == counted for asked, counted in pairs):
        return None
    asked, counted = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return f"prompts have {counted:.1f} tokens on average where {asked:.1f} were meant, chat template included"


def _reused(good: Sequence[Record], workload: Workload) -> str | None:
    """Prompts that share nothing can be in the cache for one reason only."""
    known = [(record.cached_tokens, record.prompt_tokens or 0) for record in good if record.cached_tokens is not None]
    cached, prompt = sum(cached for cached, _ in known), sum(prompt for _, prompt in known)
    if workload.shares or cached <= SHARED * prompt:
        return None
    return (
        "prompts are in the server's cache from an earlier run: --flush-cache, or another --seed, measures without it"
    )


def _early(good: Sequence[Record]) -> str | None:
    early = sum(record.ended_early for record in good)
    return f"{early} of {len(good)} answers ended before the length that was asked for" if early else None


def _counted(good: Sequence[Record]) -> str | None:
    ways = {record.counted for record in good}
    if "chunks" in ways:
        return "the server does not count output tokens: chunks stand in for them, and rates and TPOT are estimates"
    if "tokenizer" in ways:
        return "the server does not count output tokens: the tokenizer here counted them in the text"
    return None


def _chunks(good: Sequence[Record]) -> str | None:
    chunks = sum(len(record.stamps) for record in good)
    tokens = sum(record.tokens for record in good)
    if not chunks or tokens / chunks < SEVERAL:
        return None
    return f"{tokens / chunks:.1f} tokens per chunk: ITL is the gap between chunks, not between tokens"


def _unsent(records: Sequence[Record], workload: Workload) -> str | None:
    """Turns after a failed one."""
    broken = [record for record in records if not record.ok]
    missing = sum(len(workload.conversations[record.user].turns) - record.turn - 1 for record in broken)
    return f"{missing} later turns were not sent, since a turn before them failed" if missing else None


def _late(records: Sequence[Record]) -> str | None:
    lags = sorted(record.sent - record.due for record in records)
    if not lags or percentile(lags, 99) < LATE:
        return None
    return f"the client was late: 1 % of the requests were sent {percentile(lags, 99) * 1000:.0f} ms or more after time"
