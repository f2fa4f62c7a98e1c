"""How much of what memory a run takes, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from ramify.config.model import ModelConfig
from ramify.config.notes import Notes
from ramify.config.quantized import quantized_of
from ramify.config.settings import Settings
from ramify.config.stored import kv_bytes, state_bytes, weight_bytes, window_bytes
from ramify.core.errors import StartupError

UNLIMITED = 1 << 40  # tokens of no bytes
SMALLEST_POOL = 256  # tokens under which serving makes no sense, unless they were asked for
GIB, MIB = 1 << 30, 1 << 20
FLYING = 3  # steps that are planned and not learned, each of which has a chunk of somebody's prompt at most
STATES, LEAST_STATES = 3, 2  # of a request that runs, and of a server
SMALLER = "Use a smaller model, a larger --mem-fraction-static, or a machine with more memory."
SMALLER_STEPS = (
    "Use a smaller --chunked-prefill-size, --max-running-requests or --cuda-graph-max-bs, --kv-cache-dtype int8, a "
    "quantized model, or another --mem-fraction-static."
)


@dataclass(frozen=True)
class Sized:
    """What of a run decides how much memory it takes. `adapters` are bytes, `captured` numbers of rows."""

    settings: Settings
    model: ModelConfig
    dtype: str
    quantization: str
    kv_dtype: str
    context: int
    rows: int
    page_size: int
    chunk: int
    adapters: int = 0
    captured: tuple[int, ...] = ()
    kinds: int = 1  # of steps of one size


@dataclass(frozen=True)
class Peak:
    """Bytes that a step needs for a while, beside weights and cache: one term of many."""

    name: str
    size: int
    how: str


class Room(Protocol):
    """Where there is memory: `memory` bytes are free, of which a run takes `share`, and `process` of these are for what
    surrounds the model. `at_once`: the pool is taken whole at start.
    """

    memory: int
    where: str
    default: str
    share: float
    process: int
    around: str
    at_once: bool

    def peaks(self, sized: Sized) -> tuple[Peak, ...]: ...


@dataclass(frozen=True)
class Budget:
    """What a model may take of a memory that it shares with others, in bytes, and why that much."""

    size: int
    reason: str


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. `pool` is what the KV cache takes when every page has been written, `activations` the sum of `peaks`.

    `at_once`: all of the pool is taken at start, and what is free is looked at before that. `least` is the size of a
    pool under which nothing starts.
    """

    available: int
    share: float
    weights: int
    activations: int
    pool: int
    pool_tokens: int
    bytes_per_token: int
    window_tokens: int = 0  # of layers with a window, which have a pool of their own
    state_slots: int = 0  # of layers that keep a state
    state_bytes: int = 0  # of one of these
    adapters: int = 0  # of all that are in memory
    peaks: tuple[Peak, ...] = ()
    process: int = 0
    where: str = ""
    around: str = ""
    at_once: bool = False
    exact: bool = False  # somebody has said how many tokens

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.adapters + self.process + self.pool


def plan_memory(sized: Sized, where: Room, budget: Budget | None, note: Notes) -> MemoryPlan:
    """Weights, peaks and what surrounds them, and the rest for the KV cache. With a `budget` that is what there is."""
    settings, model, rows, page_size = sized.settings, sized.model, sized.rows, sized.page_size
    weights = weight_bytes(model, sized.dtype, sized.quantization, quantized_of(model.raw))
    per_token, peaks = kv_bytes(model, sized.kv_dtype), where.peaks(sized)
    activations, context = sum(peak.size for peak in peaks), sized.context
    share, allowed = _allowed(settings, where, budget, note)
    room = allowed - weights - activations - where.process - sized.adapters
    useful = rows * context
    asked = settings.cache.max_total_tokens
    state = state_bytes(model, sized.dtype)
    slots = _state_slots(settings, state, per_token, room, rows, useful, note)
    room -= slots * state
    least = rows * ((model.window or 0) + 2 * page_size) + min(rows, FLYING) * sized.chunk
    windows = _Windows(per_token, window_bytes(model, sized.kv_dtype), least)
    tokens = min(windows.fit(room), useful) if asked is None else asked
    tokens = tokens // page_size * page_size
    pool = windows.size(tokens)
    if asked is not None and pool + slots * state + weights + activations + sized.adapters > where.memory:
        raise StartupError(
            f"--max-total-tokens {asked} needs {gib(pool)} beside {gib(weights)} of weights, and "
            f"{gib(where.memory)} are available",
            f"At most about {windows.fit(max(room, 0))} tokens fit.",
        )
    if asked is not None and tokens < page_size:
        raise StartupError(f"--max-total-tokens {asked} is less than one page of {page_size} tokens")
    if asked is None and (tokens < min(SMALLEST_POOL, context) or tokens < page_size):
        raise StartupError(
            f"the model does not fit: weights {gib(weights)}, activations {gib(activations)}, and of the "
            f"{gib(where.memory)} available {share:.0%} may be used, which leaves {windows.fit(max(room, 0))} "
            "tokens of KV cache",
            SMALLER if not where.at_once else SMALLER_STEPS,
        )
    if asked is not None:
        reason = note.asked("max_total_tokens") + ("" if tokens == asked else ", in whole pages")
    elif tokens >= useful // page_size * page_size:
        reason = f"all that {rows} requests of {context} tokens can use"
    else:
        reason = f"what {share:.0%} of {gib(where.memory)} leaves beside the weights ({gib(weights)})"
    note("max_total_tokens", tokens, reason)
    window = 0
    if model.window is not None:
        window = windows.beside(tokens) // page_size * page_size
        note("window_tokens", window, f"for the layers that see {model.window} tokens, beside those for the others")
    return MemoryPlan(
        where.memory,
        share,
        weights,
        activations,
        pool + slots * state,
        tokens,
        per_token,
        window,
        slots,
        state,
        sized.adapters,
        peaks,
        where.process,
        where.where,
        where.around,
        where.at_once,
        asked is not None,
    )


def _allowed(settings: Settings, where: Room, budget: Budget | None, note: Notes) -> tuple[float, int]:
    """The share of the memory that may be used, and its bytes."""
    if budget is not None:
        share = budget.size / where.memory
        note("mem_fraction_static", round(share, 3), budget.reason)
        return share, budget.size
    share = note.asked_or(
        "mem_fraction_static", settings.cache.mem_fraction_static, lambda: (where.share, where.default)
    )
    return share, int(where.memory * share)


def _state_slots(settings: Settings, size: int, per_token: int, room: int, rows: int, useful: int, note: Notes) -> int:
    """How many states of `size` bytes there are. A request that runs has up to three: the live one, the one before that
    the cache is going to keep, and the one it goes on from. Half of the room is for them, or all where nothing else
    is kept.
    """
    if not size:
        return 0
    each = f"{size / MIB:.2f} MiB each"
    asked = settings.cache.max_mamba_cache_size
    if asked is not None:
        return int(note("max_mamba_cache_size", asked, f"{note.asked('max_mamba_cache_size')}, {each}"))
    most = STATES * rows + useful // settings.cache.mamba_track_interval
    fit = max(room, 0) // (2 if per_token else 1) // size
    if fit < LEAST_STATES:
        raise StartupError(
            f"the model does not fit: the state of a request is {gib(size)}, and {gib(max(room, 0))} are left",
            "Use a smaller model, a larger --mem-fraction-static, or a machine with more memory.",
        )
    reason = "all that requests and their prefixes can use" if fit >= most else "what fits beside the weights"
    if fit < rows:
        reason += f", so that fewer than {rows} requests run at once"
    return int(note("max_mamba_cache_size", min(fit, most), f"{reason}, {each}"))


class _Windows:
    """How memory is divided between layers that keep everything and layers that keep a window.

    The latter get room for `least` tokens, which is what all running requests hold at most, and for a quarter of what
    the others have where that is more: so that what is cached can be gone on with.
    """

    def __init__(self, per_token: int, window: int, least: int) -> None:
        self.window, self.full, self.least = window, per_token - window, least

    def beside(self, tokens: int) -> int:
        return min(tokens, max(self.least, tokens // 4)) if self.full else tokens

    def size(self, tokens: int) -> int:
        return tokens * self.full + (self.beside(tokens) * self.window if self.window else 0)

    def fit(self, room: int) -> int:
        """The most tokens whose size is at most `room`."""
        if not self.window:
            return room // self.full if self.full else UNLIMITED
        few = room // (self.full + self.window)  # as many for both
        if few < self.least or not self.full:
            return few
        many = 4 * room // (4 * self.full + self.window)  # a quarter
        return many if many // 4 >= self.least else (room - self.least * self.window) // self.full


def plan_without_pages(sized: Sized, where: Room, budget: Budget | None, note: Notes) -> MemoryPlan:
    """Weights and one step."""
    model, peaks = sized.model, where.peaks(sized)
    weights = weight_bytes(model, sized.dtype, sized.quantization, quantized_of(model.raw))
    activations = sum(peak.size for peak in peaks)
    share, allowed = _allowed(sized.settings, where, budget, note)
    if weights + activations + where.process > allowed:
        raise StartupError(
            f"the model does not fit: weights {gib(weights)}, a step of {sized.chunk} tokens {gib(activations)}, and "
            f"of the {gib(where.memory)} available {share:.0%} may be used",
            "Use a smaller model, a shorter --context-length, or a machine with more memory.",
        )
    note("max_total_tokens", 0, "nothing is kept between steps")
    return MemoryPlan(
        where.memory,
        share,
        weights,
        activations,
        0,
        0,
        0,
        peaks=peaks,
        process=where.process,
        where=where.where,
        around=where.around,
    )


def fitted(plan: MemoryPlan, page_size: int, free: int, smallest: int) -> MemoryPlan:
    """The plan with a pool that fits, now that weights and adapters are loaded and `free` bytes are left; raises
    `StartupError` where that is less than `smallest` tokens, or than somebody asked for. Contexts stand already, so
    that half of what surrounds a model is kept.
    """
    states = plan.state_slots * plan.state_bytes
    spare = free - plan.activations - plan.process // 2 - states
    pool = plan.pool - states
    if pool <= spare:
        return plan
    tokens, window = (_part(size, max(spare, 0), pool, page_size) for size in (plan.pool_tokens, plan.window_tokens))
    if plan.exact or pool <= 0 or tokens < max(smallest, page_size):
        raise StartupError(
            f"after loading {gib(free)} are free, and the plan needs {gib(plan.pool)} for the KV cache and "
            f"{gib(plan.activations)} for a step\n" + "\n".join(table(plan)),
            f"Something else uses this memory, or the plan is wrong. {SMALLER_STEPS}",
        )
    return replace(plan, pool=states + pool * tokens // plan.pool_tokens, pool_tokens=tokens, window_tokens=window)


def _part(tokens: int, spare: int, pool: int, page_size: int) -> int:
    return tokens * spare // max(pool, 1) // page_size * page_size


def out_of_memory(plan: MemoryPlan, what: str) -> StartupError:
    """The device refused, whatever was planned."""
    return StartupError(
        f"the device has no memory left while {what}, which the plan did not expect\n" + "\n".join(table(plan)),
        f"Something else uses this memory, or the plan is wrong. {SMALLER_STEPS}",
    )


def lines(plan: MemoryPlan, weights: str = "", adapters: str = "") -> Iterator[tuple[str, float, str]]:
    """The plan as a table: what, how many bytes, how."""
    yield "available now", plan.available, plan.where
    yield "may be used", plan.available * plan.share, f"{plan.share:.0%} of it"
    yield "weights", plan.weights, weights
    for peak in plan.peaks:
        yield peak.name, peak.size, peak.how
    yield "process", plan.process, plan.around
    if plan.adapters:
        yield "adapters", plan.adapters, adapters
    each, states = plan.bytes_per_token / 1024, plan.state_slots * plan.state_bytes
    when = "taken at start" if plan.at_once else "when full"
    yield "KV cache", plan.pool - states, f"{plan.pool_tokens:,} tokens of {each:,.1f} KiB, {when}"
    if states:
        yield "states", states, f"{plan.state_slots:,} of {plan.state_bytes / 1024:,.1f} KiB, when all are used"


def table(plan: MemoryPlan) -> Iterator[str]:
    """The same as lines of text."""
    for what, size, how in lines(plan):
        yield f"  {what:<24}{size / MIB:>10,.0f} MiB  {how}".rstrip()


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
