"""The tables on the terminal: coloured there, plain text in a pipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ramify.bench.outcome import Outcome
from ramify.bench.stats import Spread
from ramify.bench.summary import Summary

LATENCIES = (
    ("TTFT", "ttft_ms", "to the first token"),
    ("TPOT", "tpot_ms", "per token after it"),
    ("ITL", "itl_ms", "between chunks"),
    ("E2E", "e2e_ms", "to the last token"),
)
ROOMY = 110  # characters
COLUMNS = ("mean", "median", "p90", "p99", "std", "max")


def make_console() -> Console:
    """As wide as the terminal; in a pipe as wide as the tables."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=ROOMY)


def show_serve(outcome: Outcome) -> None:
    """Everything about a run of `bench serve`, on standard output."""
    console = make_console()
    _head(console, outcome)
    if outcome.summary.completed:
        console.print(_throughput(outcome.summary))
        console.print()
        console.print(_latency(outcome.summary, roomy=console.width >= ROOMY))
    _tail(console, outcome)


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
    console.print()


def say_pairs(console: Console, *pairs: tuple[str, str]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        console.print(f"  [dim]{name:<{width}}[/dim]  {text}")


def _load(outcome: Outcome) -> str:
    """In words, as it was asked for."""
    load, asking = outcome.options.load, outcome.options.asking
    rate = "all at once" if math.isinf(load.request_rate) else f"{load.request_rate:g} per second"
    if not math.isinf(load.request_rate):
        rate += " (Poisson)" if load.burstiness == 1 else f" (gamma, burstiness {load.burstiness:g})"
    limit = f", at most {load.max_concurrency} open" if load.max_concurrency is not None else ""
    eos = "" if asking.disable_ignore_eos else ", EOS ignored"
    cache = ", cache flushed" if load.flush_cache else ""
    return f"{rate}{limit}; temperature {asking.temperature:g}{eos}; seed {load.seed}{cache}"


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


def _tail(console: Console, outcome: Outcome) -> None:
    for failure in outcome.summary.errors:
        console.print(f"\n[red]{failure.count} x[/red] {escape(failure.error)}")
    if outcome.remarks:
        console.print()
    for remark in outcome.remarks:
        console.print(f"  note: {escape(remark)}")
    console.print()


def make_table(name: str, *columns: str) -> Table:
    """Names on the left, numbers on the right; a column without a name holds words."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(name, no_wrap=True, min_width=13)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    return table


def number(value: float) -> str:
    """Three digits or more, and no more than two behind the point."""
    return row([value])[0]


def row(values: Sequence[float]) -> list[str]:
    """Numbers with equally many digits behind the point, as many as the largest needs."""
    largest = max(abs(value) for value in values)
    digits = 0 if largest >= 1000 else 1 if largest >= 100 else 2
    return [f"{value:,.{digits}f}" for value in values]
