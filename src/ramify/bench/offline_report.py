"""What `ramify bench offline` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ramify.bench.contest import Agreement, Results
from ramify.bench.options import OfflineOptions
from ramify.bench.stats import median
from ramify.bench.tables import make_console, make_table, row, say_notes, say_pairs
from ramify.config.resolve import Resolved

MEASURES = (
    ("prefill tok/s", "prefill"),
    ("decode tok/s", "decode"),
    ("output tok/s", "output"),
    ("seconds", "total_s"),
)
LEGEND = """\
  prefill: prompt tokens per second until every row has its first token; decode: tokens per second after those;
  output: tokens per second of the whole call, which takes so many seconds"""


def show_offline(options: OfflineOptions, resolved: Resolved, results: Results, notes: Sequence[str]) -> None:
    """Everything about a run, on standard output."""
    console = make_console()
    _head(console, options, resolved, results)
    console.print(_table(results))
    console.print(f"[dim]{LEGEND}{_ratio_legend(results.engines)}[/dim]")
    say_notes(console, notes)


def _ratio_legend(engines: Sequence[str]) -> str:
    return f"\n  ratio: the rate of {engines[0]} over that of {engines[1]}, run by run" if len(engines) > 1 else ""


def _head(console: Console, options: OfflineOptions, resolved: Resolved, results: Results) -> None:
    made_up = ", made-up weights" if resolved.settings.model.load_format in ("dummy", "none") else ""
    threads = f"{resolved.threads} thread{'s' * (resolved.threads != 1)}"
    console.print(f"\n[bold]{escape(resolved.served_name)}[/bold] in {resolved.dtype} on {threads}{made_up}")
    say_pairs(
        console,
        ("prompts", f"{options.input_len} random tokens each, {options.output_len} generated, greedy, EOS ignored"),
        ("runs", f"{options.repeat} of each batch after one to warm up; median (lowest-highest)"),
        *([("outputs", agreement(results.agreement, results.engines))] if len(results.engines) > 1 else []),
    )
    console.print()


def agreement(found: Agreement, engines: Sequence[str]) -> str:
    """Whether the engines said the same."""
    between = f"of {' and '.join(engines)}"
    if found.same == found.rows:
        return f"equal, token by token, in all {found.rows} rows {between}"
    first = f"{min(found.part)} to {max(found.part)}" if min(found.part) != max(found.part) else f"{found.part[0]}"
    return f"equal in {found.same} of {found.rows} rows {between}; the others part after {first} equal tokens"


def _table(results: Results) -> Table:
    """A block of rows for each batch, a column for each engine."""
    compared = len(results.engines) > 1
    table = make_table("batch", "  ", *results.engines, *(["ratio"] if compared else []), gap=2)
    for batch in results.batches:
        for label, measure in MEASURES:
            cells = [spread(results.rates(engine, batch, measure)) for engine in results.engines]
            cells += [f"[bold]{_ratio(results, batch, measure)}[/bold]"] if compared else []
            table.add_row(str(batch) if measure == MEASURES[0][1] else "", label, *cells)
        table.add_row()
    return table


def _ratio(results: Results, batch: int, measure: str) -> str:
    """Above 1 the first engine is faster; seconds would say what output says."""
    return "" if measure == "total_s" else spread(results.ratios(batch, measure), digits=2)


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """The median, and the range where there is one."""
    if not values:
        return "-"
    shown = (median(values), min(values), max(values))
    middle, low, high = row(shown) if digits is None else [f"{value:.{digits}f}" for value in shown]
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"
