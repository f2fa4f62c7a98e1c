"""How tables look: coloured on a terminal, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOMY = 110  # characters


def make_console() -> Console:
    """As wide as the terminal; in a pipe as wide as the tables."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=ROOMY)


def say_pairs(console: Console, *pairs: tuple[str, str]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        console.print(f"  [dim]{name:<{width}}[/dim]  {text}")


def say_notes(console: Console, notes: Sequence[str]) -> None:
    """What a reader has to know, and the blank line that ends a report."""
    if notes:
        console.print()
    for note in notes:
        console.print(f"  note: {escape(note)}")
    console.print()


def make_table(name: str, *columns: str, gap: int = 3) -> Table:
    """Names on the left, numbers on the right, `gap` blanks between; a column with a blank name holds words."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right" if column.strip() else "left", no_wrap=True)
    return table


def number(value: float) -> str:
    """A number by itself."""
    return row([value])[0]


def row(values: Sequence[float]) -> list[str]:
    """Numbers with equally many digits behind the point, as many as show three digits of the largest or more."""
    largest = max(abs(value) for value in values)
    digits = 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 1 else 3 if largest >= 0.1 else 4
    return [f"{value:,.{digits}f}" for value in values]
