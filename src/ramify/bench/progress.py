"""A bar on a terminal while requests run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from ramify.bench.record import Record


class NoBar:
    def add(self, record: Record) -> None: ...


class Bar:
    """Requests done, failures, and tokens per second so far."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.shown = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._task = self.shown.add_task("", total=total)
        self._start = perf_counter()
        self._tokens = self._failed = 0

    def add(self, record: Record) -> None:
        self._tokens += record.tokens if record.ok else 0
        self._failed += not record.ok
        failed = f", [red]{self._failed} failed[/red]" if self._failed else ""
        rate = self._tokens / max(perf_counter() - self._start, 1e-9)
        self.shown.update(self._task, advance=1, description=f"{rate:,.0f} output tok/s{failed}")


@contextmanager
def progress(total: int) -> Iterator[Bar | NoBar]:
    """A bar if somebody can see it."""
    if not sys.stderr.isatty():
        yield NoBar()
        return
    bar = Bar(total)
    with bar.shown:
        yield bar
