"""What `ramify bench serve` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ramify.bench.options import LoadOptions
from ramify.bench.outcome import Outcome
from ramify.bench.stats import Spread
from ramify.bench.summary import Failure, Summary
from ramify.bench.tables import ROOMY, make_console, make_table, number, row, say_notes, say_pairs

LATENCIES = (
    ("TTFT", "ttft_ms", "to the first token"),
    ("TPOT", "tpot_ms", "per token after it"),
    ("ITL", "itl_ms", "between chunks"),
    ("E2E", "e2e_ms", "to the last token"),
)
COLUMNS = ("mean", "median", "p90", "p99", "std", "max")


def show_serve(outcome: Outcome) -> None:
    """Everything about a run of `bench serve`, on standard output."""
    console = make_console()
    _head(console, outcome)
    if outcome.summary.completed:
        console.print()
        console.print(_throughput(outcome.summary))
        console.print()
        console.print(_latency(outcome.summary, roomy=console.width >= ROOMY))
    _failures(console, outcome.summary.errors)
    say_notes(console, outcome.remarks)


def _head(console: Console, outcome: Outcome) -> None:
    server = outcome.server
    console.print(f"\n[bold]{escape(server.model)}[/bold] at {escape(server.url)}{server.backend.path}")
    say_pairs(
        console,
        ("backend", f"{server.backend.name} ({server.why})"),
        ("prompts", escape(outcome.workload.about)),
        ("load", _load(outcome)),
        ("requests", _requests(outcome.summary)),
        ("open at once", f"{outcome.summary.concurrency:.1f} on average, {outcome.summary.peak_concurrency} at most"),
        *_goodput(outcome.summary),
    )


def _load(outcome: Outcome) -> str:
    """In words, as it was asked for."""
    load, asking = outcome.options.load, outcome.options.asking
    eos = "" if asking.disable_ignore_eos else ", EOS ignored"
    cache = ", cache flushed" if load.flush_cache else ""
    return f"{_arrivals(load)}; temperature {asking.temperature:g}{eos}; seed {load.seed}{cache}"


def _arrivals(load: LoadOptions) -> str:
    limit = load.max_concurrency
    if math.isinf(load.request_rate):
        return "all at once" if limit is None else f"closed loop, {limit} open at a time"
    shape = "Poisson" if load.burstiness == 1 else f"gamma, burstiness {load.burstiness:g}"
    rate = f"open loop, {load.request_rate:g} per second ({shape})"
    return rate if limit is None else f"{rate}, at most {limit} open"


def _requests(summary: Summary) -> str:
    failed = f", [bold red]{summary.failed} failed[/bold red]" if summary.failed else ", 0 failed"
    stopped = f", [yellow]{summary.interrupted} not finished[/yellow]" if summary.interrupted else ""
    return f"{summary.completed} completed{failed}{stopped} in {summary.duration_s:.2f} s"


def _throughput(summary: Summary) -> Table:
    table = make_table("throughput", "per second", "total", "")
    table.add_row("requests", number(summary.requests_per_s), f"{summary.completed:,}", "")
    table.add_row("input tokens", number(summary.input_tokens_per_s), f"{summary.input_tokens:,}", _cached(summary))
    table.add_row("output tokens", number(summary.output_tokens_per_s), f"{summary.output_tokens:,}", "")
    both = summary.input_tokens + summary.output_tokens
    table.add_row("all tokens", number(summary.total_tokens_per_s), f"{both:,}", "")
    return table


def _goodput(summary: Summary) -> list[tuple[str, str]]:
    good = summary.goodput
    return (
        [("goodput", f"{number(good.requests_per_s)} requests/s, {good.share:.1%} of all: {good.slo}")] if good else []
    )


def _cached(summary: Summary) -> str:
    if summary.cached_tokens is None:
        return "cached: not reported"
    return f"{summary.cached_tokens / max(summary.reported_prompt_tokens, 1):.1%} of them cached"


def _latency(summary: Summary, roomy: bool) -> Table:
    table = make_table("latency, ms", *COLUMNS, *([""] if roomy else []))
    for name, attribute, meaning in LATENCIES:
        found: Spread | None = getattr(summary, attribute)
        cells = ["-"] * len(COLUMNS) if found is None else row([getattr(found, column) for column in COLUMNS])
        table.add_row(name, *cells, *([f"[dim]{meaning}[/dim]"] if roomy else []))
    return table


def _failures(console: Console, errors: Sequence[Failure]) -> None:
    if errors:
        console.print()
    for failure in errors:
        console.print(f"  [red]{failure.count} x[/red] {escape(failure.error)}")
