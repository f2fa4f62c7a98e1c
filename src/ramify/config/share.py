"""Memory for several models: each has its weights, and what is left is divided among their caches by plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ramify.config.adapters import Adaptable
from ramify.config.machine import Machine
from ramify.config.memory import SMALLEST_POOL, Budget
from ramify.config.model import ModelConfig
from ramify.config.on_cpu import PROCESS_BYTES
from ramify.config.resolve import Resolved, resolve, target_of
from ramify.config.settings import Settings
from ramify.config.several import is_own
from ramify.core.errors import StartupError

PLENTY = 1 << 56  # bytes of a machine on which every model has all that it can use
GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Found:
    """A model that was asked for, and was looked at."""

    settings: Settings
    model: ModelConfig
    folder: Path
    adaptable: Adaptable | None = None


@dataclass(frozen=True)
class Need:
    """Of one model, in bytes: what it takes whatever happens, and its cache. `exact`: somebody has said how much, and
    `most` is that.
    """

    name: str
    weights: int
    activations: int
    least: int
    most: int
    exact: bool = False
    adapters: int = 0
    process: int = PROCESS_BYTES

    @property
    def fixed(self) -> int:
        """With a process around it."""
        return self.weights + self.activations + self.adapters + self.process

    @property
    def must(self) -> int:
        """Under which it does not start."""
        return self.fixed + (self.most if self.exact else self.least)


def resolve_all(found: Sequence[Found], machine: Machine, share: float | None) -> tuple[Resolved, ...]:
    """All of them, each with its part of the `share` of the memory of its device that may be used. Models that start
    later are counted as well. Raises `StartupError` with the name of the first that does not fit.
    """
    alone = [_alone(each, machine) for each in found]
    _check_names(alone)
    made: dict[int, Resolved] = {}
    for device in dict.fromkeys(each.device for each in alone):
        there = [at for at, each in enumerate(alone) if each.device == device]
        memory = target_of(alone[there[0]].settings, machine)
        needs = [_need(alone[at], memory.memory) for at in there]
        parts = divide(needs, memory.memory, memory.share if share is None else share)
        for at, part in zip(there, parts, strict=True):
            budget = Budget(part, _reason(len(there), device, found[at].settings))
            made[at] = _named(found[at], alone[at].served_name, machine, budget)
    return tuple(made[at] for at in range(len(found)))


def _alone(found: Found, machine: Machine) -> Resolved:
    name = found.settings.model.served_model_name or found.settings.model.model_path or found.folder.name
    gpus = tuple(replace(gpu, free=PLENTY) for gpu in machine.gpus)
    return _named(found, name, replace(machine, memory=PLENTY, gpus=gpus), None)


def _named(found: Found, name: str, machine: Machine, budget: Budget | None) -> Resolved:
    """An error is about one of several, and says about which."""
    try:
        return resolve(found.settings, found.model, found.folder, machine, found.adaptable, budget)
    except StartupError as e:
        raise StartupError(f"{name}: {e.cause}", e.remedy) from None


def _check_names(models: Sequence[Resolved]) -> None:
    names = [model.served_name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StartupError(
            f"several models would be called {twice[0]!r}", "Name them: --model NAME=PATH, or `name` in their entries."
        )


def _reason(count: int, device: str, settings: Settings) -> str:
    if is_own(settings, "mem_fraction_static"):
        return "its own share"
    where = "" if device == "cpu" else f" of {device}"
    return f"its part of what {count} models may use{where}" if count > 1 else f"all that may be used{where}"


def _need(resolved: Resolved, memory: int) -> Need:
    plan, cache = resolved.memory, resolved.settings.cache
    least = min(min(SMALLEST_POOL, resolved.context) * plan.bytes_per_token, plan.pool)
    exact = cache.max_total_tokens is not None
    need = Need(
        resolved.served_name, plan.weights, plan.activations, least, plan.pool, exact, plan.adapters, plan.process
    )
    if not is_own(resolved.settings, "mem_fraction_static") or need.exact:
        return need
    assert cache.mem_fraction_static is not None
    pool = int(memory * cache.mem_fraction_static) - need.fixed
    return replace(need, most=max(pool, need.least), exact=True)


def divide(needs: Sequence[Need], memory: int, share: float) -> list[int]:
    """Bytes for each. What is left beside what all have to have goes to the caches in equal parts; what one cannot use
    is divided among the others.
    """
    _check_fit(needs, memory, share)
    parts = [need.must for need in needs]
    useful = [0 if need.exact else need.most - need.least for need in needs]
    level = _level(sorted(useful), int(memory * share) - sum(parts))
    return [part + min(more, level) for part, more in zip(parts, useful, strict=True)]


def _level(useful: Sequence[int], room: int) -> int:
    """How much each may have at most, so that all together have no more than `room`; `useful` is what each has use for,
    in ascending order.
    """
    for at, size in enumerate(useful):
        if size * (len(useful) - at) >= room:
            return room // (len(useful) - at)
        room -= size
    return useful[-1]


def _check_fit(needs: Sequence[Need], memory: int, share: float) -> None:
    left = int(memory * share)
    for need in needs:
        if need.must > left:
            raise StartupError(
                f"{need.name} does not fit: it needs {need.must / GIB:.2f} GiB (weights {need.weights / GIB:.2f}, "
                f"activations {need.activations / GIB:.2f}, adapters {need.adapters / GIB:.2f}, its process "
                f"{need.process / GIB:.2f}, KV cache "
                f"{'' if need.exact else 'at least '}{(need.must - need.fixed) / GIB:.2f}), and of the "
                f"{memory / GIB:.2f} GiB available {share:.0%} may be used, of which the models before it leave "
                f"{max(left, 0) / GIB:.2f}",
                "Leave a model out, store it in fewer bits (quantization), or raise --mem-fraction-static.",
            )
        left -= need.must


def table(models: Sequence[Resolved]) -> Iterator[str]:
    """Who has what: a line for each model, and one for all."""
    heads = ("model", "weights", "activations", "process", "adapters", "KV cache", "tokens", "together")
    rows = [_row(model) for model in models]
    devices = dict.fromkeys(model.device for model in models)
    cells = [heads, *rows, *(_sum(models, device, len(devices) > 1) for device in devices)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    for row in cells:
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()


def _sum(models: Sequence[Resolved], device: str, several: bool) -> tuple[str, ...]:
    there = [model.memory for model in models if model.device == device]
    total = sum(plan.total for plan in there)
    return (f"all on {device}" if several else "all", *[""] * 6, f"{_mib(total)} of {_mib(there[0].available)}")


def _row(model: Resolved) -> tuple[str, ...]:
    plan = model.memory
    sizes = (_mib(size) for size in (plan.weights, plan.activations, plan.process, plan.adapters, plan.pool))
    lazy = " (lazy)" if model.settings.model.lazy else ""
    return (model.served_name + lazy, *sizes, f"{plan.pool_tokens:,}", _mib(plan.total))


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
