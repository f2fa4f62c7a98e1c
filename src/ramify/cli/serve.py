"""`ramify serve` and `ramify explain`: the same settings, one runs and the other says what would run."""

from __future__ import annotations

import logging
import shutil
import textwrap
from collections.abc import Iterator

from ramify.cli.settings import parse_models
from ramify.config.memory import lines
from ramify.config.notes import Decision
from ramify.config.resolve import Resolved
from ramify.config.settings import names
from ramify.config.share import table
from ramify.core import log as logs

log = logging.getLogger(__name__)

MIB = 1 << 20


def serve(arguments: list[str]) -> int:
    asked = parse_models(arguments, "ramify serve")
    logs.setup(asked[0].log.log_level, role="ramify")
    from ramify.engine.build import prepare_all
    from ramify.server.launch import serve as run

    models = prepare_all(asked)
    if len(models) > 1:
        for line in table(models):
            log.info("%s", line)
    return run(models)


def explain(arguments: list[str]) -> int:
    asked = parse_models(arguments, "ramify explain")
    logs.setup("warning", role="ramify")
    from ramify.engine.build import prepare_all

    models = prepare_all(asked)
    for model in models:
        if len(models) > 1:
            print(f"== {model.served_name}\n")
        show(model)
        if len(models) > 1:
            print()
    if len(models) > 1:
        print("Memory of all models")
        print("\n".join(f"  {line}" for line in table(models)))
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
    stored = (
        resolved.dtype if resolved.quantization == "none" else f"{resolved.dtype}, linears in {resolved.quantization}"
    )
    weights = f"{resolved.model.parameters / 1e6:,.1f} M parameters in {stored}"
    adapters = resolved.adapters
    beside = f"{adapters.loaded} of rank {adapters.rank}, of which {adapters.slots} compute" if adapters else ""
    return lines(resolved.memory, weights, beside)
