"""`ramify serve` and `ramify explain`: the same settings, one runs and the other says what would run."""

from __future__ import annotations

from ramify.cli.settings import parse
from ramify.config.resolve import Resolved
from ramify.core import log as logs


def serve(arguments: list[str]) -> int:
    settings = parse(arguments, "ramify serve")
    logs.setup(settings.log.log_level, role="ramify")
    from ramify.engine.build import prepare
    from ramify.server.launch import serve as run

    return run(prepare(settings))


def explain(arguments: list[str]) -> int:
    settings = parse(arguments, "ramify explain")
    logs.setup("warning", role="ramify")
    from ramify.engine.build import prepare

    show(prepare(settings))
    return 0


def show(resolved: Resolved) -> None:
    """Every decision with its reason, and the memory plan."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="What this run uses", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("setting", "value", "because"):
        table.add_column(column, overflow="fold")
    for decision in resolved.decisions:
        table.add_row(decision.name, str(decision.value), decision.reason)
    console.print(table)
    console.print()
    console.print(_memory(resolved))


def _memory(resolved: Resolved):  # type: ignore[no-untyped-def]
    from rich.table import Table

    plan, mib = resolved.memory, 1 << 20
    table = Table(title="Memory plan", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("what")
    table.add_column("MiB", justify="right")
    table.add_column("how")
    model = resolved.model
    table.add_row("available now", f"{plan.available / mib:,.0f}", "within this process's control group")
    table.add_row("may be used", f"{plan.available * plan.share / mib:,.0f}", f"{plan.share:.0%} of it")
    table.add_row(
        "weights", f"{plan.weights / mib:,.0f}", f"{model.parameters / 1e6:,.1f} M parameters in {resolved.dtype}"
    )
    table.add_row("activations", f"{plan.activations / mib:,.0f}", f"at most, for a step of {resolved.chunk} tokens")
    each = plan.bytes_per_token / 1024
    table.add_row("KV cache", f"{plan.pool / mib:,.0f}", f"{plan.pool_tokens:,} tokens of {each:,.1f} KiB, when full")
    return table
