"""`ramify serve` and `ramify explain`: the same settings, one runs and the other says what would run."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from ramify.cli.settings import parse
from ramify.config.resolve import Decision, Resolved
from ramify.config.settings import names
from ramify.core import log as logs

MIB = 1 << 20


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


NAME, VALUE = 30, 14  # columns of names and of values


def show(resolved: Resolved) -> None:
    """Every setting with its reason, and the memory plan."""
    print("What this run uses, and why")
    for decision in resolved.decisions:
        print(_row(decision))
    print("\nAt their defaults")
    width = shutil.get_terminal_size().columns
    print(textwrap.fill(", ".join(_defaults(resolved)), width, initial_indent="  ", subsequent_indent="  "))
    print("\nMemory plan")
    for what, size, how in _memory(resolved):
        print(f"  {what:<{NAME}}{size / MIB:>{VALUE - 6},.0f} MiB  {how}")


def _row(decision: Decision) -> str:
    """One line; a long value is whole on a line of its own, so that a path can be copied."""
    name, value = f"  {decision.name:<{NAME}}", f"{decision.value}"
    indent = " " * (NAME + VALUE + 2)
    reason = textwrap.fill(
        decision.reason,
        max(shutil.get_terminal_size().columns, len(indent) + 30),
        initial_indent=indent,
        subsequent_indent=indent,
    )
    if len(name) - 2 > NAME or len(value) > VALUE - 2:
        return f"{name.rstrip():<{NAME + 1}} {value}\n{reason}"
    return f"{name}{value:<{VALUE}}{reason[len(indent) :]}"


def _defaults(resolved: Resolved) -> list[str]:
    """Settings that nobody asked about and that nothing was decided on."""
    decided = {decision.name for decision in resolved.decisions} | {"model_path"}
    values = {
        name: getattr(getattr(resolved.settings, room), name)
        for name, (room, _) in names().items()
        if name not in decided
    }
    return [f"{name} {'none' if value is None else str(value).lower()}" for name, value in values.items()]


def _memory(resolved: Resolved) -> Iterator[tuple[str, float, str]]:
    """What, how many bytes, how."""
    plan, model = resolved.memory, resolved.model
    yield "available now", plan.available, "within this process's control group"
    yield "may be used", plan.available * plan.share, f"{plan.share:.0%} of it"
    yield "weights", plan.weights, f"{model.parameters / 1e6:,.1f} M parameters in {resolved.dtype}"
    yield "activations", plan.activations, f"at most, for a step of {resolved.chunk} tokens"
    if resolved.adapters is not None:
        adapters = resolved.adapters
        yield "adapters", plan.adapters, f"{adapters.loaded} of rank {adapters.rank}, of which {adapters.slots} compute"
    each = plan.bytes_per_token / 1024
    states = plan.state_slots * plan.state_bytes
    yield "KV cache", plan.pool - states, f"{plan.pool_tokens:,} tokens of {each:,.1f} KiB, when full"
    if states:
        yield "states", states, f"{plan.state_slots:,} of {plan.state_bytes / 1024:,.1f} KiB, when all are used"
