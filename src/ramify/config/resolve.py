"""From what was asked, what the model is and what the machine has, to what a run uses; every choice with its reason.

Pure: the same arguments give the same answer, and `ramify explain` prints it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ramify.config.adapters import Adaptable, AdapterPlan
from ramify.config.machine import Machine
from ramify.config.model import ModelConfig
from ramify.config.parts import PART_OF
from ramify.config.quantized import METHODS, quantized_of
from ramify.config.read import refusal_of
from ramify.config.settings import Settings, names
from ramify.config.stored import ELEMENT_BYTES, kv_bytes, state_bytes, weight_bytes, window_bytes
from ramify.core.errors import BadRequest, StartupError
from ramify.core.params import SamplingParams

QUANTIZATIONS = {"w8a8_int8": "w8a8"}  # SGLang's names of ours
SPELLINGS = {"float": "float32", "half": "float16", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PROCESS_BYTES = 600 << 20  # torch, Python and the API process, measured
UNLIMITED = 1 << 40  # tokens of no bytes
SHARE = 0.7  # of the memory that is free at start
SMALLEST_POOL = 256  # tokens under which serving makes no sense, unless they were asked for
GIB, MIB = 1 << 30, 1 << 20
STATES, LEAST_STATES = 3, 2  # of a request that runs, and of a server
USUAL_RANK, USUAL_LOADED = 16, 32  # of adapters
ON_CPU = "default on a CPU"
TEXTS, TOGETHER = 256, 1024  # that an encoder computes together by default, and their tokens
MOST_INPUTS = 1 << 17  # products of int8 that add up in int32 without a wrap: 127 * 127 * 2^17 < 2^31
COMPILED = ("float32", "bfloat16")  # types that the compiled kernels compute in
HEAD = 16  # head sizes they take are multiples of it
SECRETS = ("api_key", "admin_api_key")  # never shown, in no list of settings


@dataclass(frozen=True)
class Decision:
    """One resolved value and why it is that."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Budget:
    """What a model may take of a memory that it shares with others, in bytes, and why that much."""

    size: int
    reason: str


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. `pool` is what the KV cache takes when every page has been written."""

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


@dataclass(frozen=True)
class Resolved:
    """What a run uses. `settings` are as asked; the other fields are decided."""

    settings: Settings
    model: ModelConfig
    folder: Path
    served_name: str
    device: str
    dtype: str
    quantization: str
    kv_dtype: str
    context: int
    page_size: int
    rows: int
    queue: int
    chunk: int
    depth: int
    threads: int
    attention: str
    linears: str
    memory: MemoryPlan
    decisions: tuple[Decision, ...]
    adapters: AdapterPlan | None = None

    @property
    def preferred(self) -> dict[str, Any]:
        """Sampling parameters that count where a request says nothing."""
        return preferred_of(self.settings)

    @property
    def pages(self) -> int:
        return self.memory.pool_tokens // self.page_size

    @property
    def window_pages(self) -> int:
        """Pages of layers that see only a window."""
        return self.memory.window_tokens // self.page_size


class _Notes:
    """Collects decisions while they are made."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.made: list[Decision] = []
        self._sources = sources

    def asked(self, name: str) -> str:
        """The reason of a value that somebody asked for: where they did."""
        return self._sources.get(name, "as asked")

    def asked_for(self, name: str, otherwise: str) -> str:
        """The same of a setting that has its default already."""
        return self._sources.get(name, otherwise)

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        self.made.append(Decision(name, value, reason))
        return value

    def asked_or(self, name: str, asked: Any, default: Callable[[], tuple[Any, str]]) -> Any:
        """The value that was asked for, or the default with its reason."""
        if asked is not None:
            return self(name, asked, self.asked(name))
        return self(name, *default())


def resolve(
    settings: Settings,
    model: ModelConfig,
    folder: Path,
    machine: Machine,
    adaptable: Adaptable | None = None,
    budget: Budget | None = None,
) -> Resolved:
    """Decide everything; raises `StartupError` with a remedy where what was asked cannot be. `adaptable`: there are
    adapters. With a `budget` that is what the model may take, and otherwise its share of the machine's memory.
    """
    _check(settings)
    note = _Notes(settings.sources)
    bundled = settings.model.model_path is None
    note("task", *_task(settings, model, note))
    note("model_impl", *_implementation(settings, model, note))
    if PART_OF in model.raw:
        note("part", "language", f"the model is {model.raw[PART_OF]}, of which what sees or hears is left out")
    note("model", str(folder), "bundled with ramify, since none was asked for" if bundled else note.asked("model_path"))
    served = note.asked_or(
        "served_model_name",
        settings.model.served_model_name,
        lambda: (settings.model.model_path or folder.name, "the model path"),
    )
    free = settings.model.device == "auto"
    device = note("device", "cpu", "the only one in this version" if free else note.asked("device"))
    dtype = _dtype(settings, model, machine, note)
    quantization = _quantization(settings, model, machine, dtype, note)
    kv_dtype = _kv_dtype(settings, model, dtype, note)
    context = _context(settings, model, note)
    most = 32 if model.encoder is None else TEXTS
    rows = note.asked_or("max_running_requests", settings.schedule.max_running_requests, lambda: (most, ON_CPU))
    page_size = _page_size(settings, model, context, note)
    chunk = _chunk(settings, model, context, note)
    adapters = None if adaptable is None else _adapters(settings, adaptable, ELEMENT_BYTES[dtype], rows, note)
    if model.encoder is None:
        beside = 0 if adapters is None else adapters.size
        memory = _plan_memory(
            settings,
            model,
            machine,
            dtype,
            quantization,
            kv_dtype,
            context,
            rows,
            page_size,
            chunk,
            beside,
            budget,
            note,
        )
    else:
        memory = _plan_without_pages(settings, model, machine, dtype, quantization, chunk, budget, note)
    attention = _attention(settings, model, machine, dtype, note)
    return Resolved(
        settings=settings,
        model=model,
        folder=folder,
        served_name=served,
        device=device,
        dtype=dtype,
        quantization=quantization,
        kv_dtype=kv_dtype,
        context=context,
        page_size=page_size,
        rows=rows,
        queue=note.asked_or("max_queued_requests", settings.schedule.max_queued_requests, lambda: (4096, "default")),
        chunk=chunk,
        depth=_depth(settings, note),
        threads=_threads(settings, machine, note),
        attention=attention,
        linears=_linears(settings, model, machine, dtype, quantization, attention, note),
        memory=memory,
        decisions=(*note.made, *_taken_as_asked(settings, note)),
        adapters=adapters,
    )


def _task(settings: Settings, model: ModelConfig, note: _Notes) -> tuple[str, str]:
    """What the model is served for."""
    head = model.head
    if head is None:
        return "generate", f"{model.architecture} has no other head"
    if settings.model.is_embedding and head.task == "embed":
        return head.task, note.asked("is_embedding")
    how = f"{' and '.join(head.pooling)} of the hidden states, {head.size} numbers"
    return head.task, f"{model.architecture}{' and modules.json' if head.task == 'embed' else ''}: {how}"


def _implementation(settings: Settings, model: ModelConfig, note: _Notes) -> tuple[str, str]:
    """Whose code computes the model."""
    name = "native" if model.generic is None else "transformers"
    if settings.model.model_impl != "auto":
        return name, note.asked("model_impl")
    if model.generic is None:
        return name, f"ramify has code of its own for {model.architecture}"
    return name, f"no native code computes this {model.architecture}: {model.generic.release} does, over our cache"


def _taken_as_asked(settings: Settings, note: _Notes) -> tuple[Decision, ...]:
    """What was asked for and needed no deciding. Keys are not shown."""
    decided = {decision.name for decision in note.made} | {"model_path"}
    asked = [
        (name, getattr(getattr(settings, room), name))
        for name, (room, _) in names().items()
        if name in settings.sources and name not in decided
    ]
    return tuple(
        Decision(name, "(set)" if name in SECRETS else value, note.asked(name))
        for name, value in asked
        if value is not None
    )


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    if host in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(settings: Settings) -> None:
    """Combinations and ranges that types cannot say."""
    server = settings.server
    for name, (room, field) in names().items():
        if refusal := refusal_of(field, getattr(getattr(settings, room), name)):
            raise StartupError(f"--{name.replace('_', '-')} {refusal}")
    if not is_loopback(server.host) and not server.api_key and not server.allow_unauthenticated:
        raise StartupError(
            f"--host {server.host} can be reached by others, and there is no --api-key",
            "Set --api-key KEY, or say --allow-unauthenticated if everybody on that network may use the model.",
        )
    if server.enable_return_hidden_states and settings.model.load_format == "none":
        raise StartupError("--enable-return-hidden-states needs a model, and --load-format none has none")
    preferred_of(settings)
    _check_parallel(settings)


def preferred_of(settings: Settings) -> dict[str, Any]:
    """`--preferred-sampling-params`, checked."""
    try:
        given = msgspec.json.decode(settings.server.preferred_sampling_params or "{}", type=dict[str, Any])
        SamplingParams.parse(given)
    except (msgspec.MsgspecError, BadRequest) as e:
        remedy = """Give a JSON object like '{"top_p": 0.9}'."""
        raise StartupError(f"--preferred-sampling-params: {e}", remedy) from None
    return given


def _check_parallel(settings: Settings) -> None:
    instead = {
        "tp_size": "One process uses all cores of a machine already.",
        "pp_size": "One process uses all cores of a machine already.",
        "dp_size": "Start several servers on different ports.",
        "ep_size": "One process computes all experts.",
        "nnodes": "Start one server per machine.",
    }
    for name, remedy in instead.items():
        if getattr(settings.parallel, name) != 1:
            raise StartupError(f"--{name.replace('_', '-')} above 1 is not in this version", remedy)


def _dtype(settings: Settings, model: ModelConfig, machine: Machine, note: _Notes) -> str:
    asked = settings.model.dtype
    if asked != "auto":
        return note("dtype", SPELLINGS.get(asked, asked), note.asked("dtype"))
    stored = SPELLINGS.get(model.dtype, model.dtype)
    if quantized_of(model.raw) is not None and (machine.bf16 or machine.kernels is not None):
        return note("dtype", "bfloat16", "what is left of a quantized checkpoint is never wider")
    if stored == "bfloat16" and (machine.bf16 or machine.kernels is not None):
        how = "multiplies it in hardware" if machine.bf16 else "reads it at half the bytes of float32"
        return note("dtype", stored, f"the checkpoint's, and this CPU {how}")
    if stored == "float32":
        return note("dtype", stored, "the checkpoint's")
    return note("dtype", "float32", f"the checkpoint is {stored}, which this CPU computes slower than float32")


def _quantization(settings: Settings, model: ModelConfig, machine: Machine, dtype: str, note: _Notes) -> str:
    asked, quantized = settings.model.quantization, quantized_of(model.raw)
    if quantized is not None and asked in (None, quantized.method):
        return note("quantization", quantized.method, f"as config.json says: {quantized.computed}")
    if asked is None:
        return note("quantization", "none", f"weights stay {dtype}")
    if asked in METHODS:
        found = "none" if quantized is None else quantized.method
        raise StartupError(
            f"--quantization {asked}: the checkpoint is not stored so; its config.json says {found}",
            "w8a8 and int4 quantize while loading; how a checkpoint is stored is seen by itself.",
        )
    if (widest := max(model.mlp, model.hidden, model.heads * model.head_dim)) > MOST_INPUTS:
        raise StartupError(
            f"--quantization {asked}: a layer has {widest} inputs, and sums are exact up to {MOST_INPUTS}"
        )
    how = "compiled kernels" if _compiled(machine, dtype) else "the reference in plain torch, which is slow"
    return note("quantization", QUANTIZATIONS.get(asked, asked), f"{note.asked('quantization')}, computed by {how}")


def _kv_dtype(settings: Settings, model: ModelConfig, dtype: str, note: _Notes) -> str:
    asked = settings.cache.kv_cache_dtype
    if asked == "int8" and model.latent is not None:
        raise StartupError("--kv-cache-dtype int8: what this model keeps are latents, which stay in its own type")
    if asked == "auto":
        return note("kv_cache_dtype", dtype, "that of the model")
    reason = note.asked("kv_cache_dtype") + (", with a scale for every token and head" if asked == "int8" else "")
    return note("kv_cache_dtype", SPELLINGS.get(asked, asked), reason)


def _compiled(machine: Machine, dtype: str) -> bool:
    return machine.kernels is not None and dtype in COMPILED


def _context(settings: Settings, model: ModelConfig, note: _Notes) -> int:
    asked = settings.model.context_length
    if asked is not None and asked > model.context:
        raise StartupError(
            f"--context-length {asked} is more than the model's {model.context}",
            "Positions beyond that were never trained.",
        )
    longest, reason = asked or model.context, note.asked("context_length") if asked else "the model's own"
    if asked is None and model.head is not None and model.head.longest and model.head.longest < longest:
        longest, reason = model.head.longest, "where sentence-transformers cuts, by sentence_bert_config.json"
    return note("context_length", longest, reason)


def _page_size(settings: Settings, model: ModelConfig, context: int, note: _Notes) -> int:
    if model.encoder is not None:
        return note("page_size", context, "nothing is kept between steps: there are no pages")
    return note.asked_or("page_size", settings.cache.page_size, lambda: (16, ON_CPU))


def _chunk(settings: Settings, model: ModelConfig, context: int, note: _Notes) -> int:
    asked = settings.schedule.chunked_prefill_size
    if model.encoder is not None:
        most = max(asked or TOGETHER, context)
        return note("chunked_prefill_size", most, "tokens of a step: a text is computed whole, others beside it")
    if asked == -1:
        return note("chunked_prefill_size", context, "no limit: a whole context fits one step")
    return note.asked_or("chunked_prefill_size", asked, lambda: (512, ON_CPU))


def _adapters(settings: Settings, adaptable: Adaptable, element: int, rows: int, note: _Notes) -> AdapterPlan:
    asked = settings.adapters
    brought = "what those of --lora-paths name" if asked.lora_paths else "all linears of the layers"
    note("lora_target_modules", ", ".join(adaptable.targets), note.asked_for("lora_target_modules", brought))
    slots = note("max_loras_per_batch", asked.max_loras_per_batch, note.asked_for("max_loras_per_batch", "default"))
    rank = note.asked_or(
        "max_lora_rank",
        asked.max_lora_rank,
        lambda: (adaptable.rank, "the highest of --lora-paths") if adaptable.rank else (USUAL_RANK, "default"),
    )
    if rank < adaptable.rank:
        raise StartupError(f"--max-lora-rank {rank}: an adapter of --lora-paths has rank {adaptable.rank}")
    whole = ", ".join(adaptable.whole) or "none"
    note("lora_whole_modules", whole, note.asked_for("lora_whole_modules", "what those of --lora-paths have"))
    most = adaptable.added, "the most of --lora-paths" if adaptable.added else "default"
    added = note.asked_or("lora_extra_vocab_size", asked.lora_extra_vocab_size, lambda: most)
    if added < adaptable.added:
        raise StartupError(f"--lora-extra-vocab-size {added}: an adapter of --lora-paths has {adaptable.added} tokens")
    own = adaptable.cells + added * adaptable.width
    each = (rank * (adaptable.elements + added * adaptable.vocabularies) + own) * element
    loaded = note.asked_or(
        "max_loaded_loras",
        asked.max_loaded_loras,
        lambda: (max(USUAL_LOADED, slots), f"default, {each / MIB:.1f} MiB each at most"),
    )
    if loaded < slots:
        raise StartupError(
            f"--max-loaded-loras {loaded} is less than the {slots} of --max-loras-per-batch", "Lower the latter."
        )
    slot = rank * (adaptable.rows + added * adaptable.looked_up) * element
    targets, policy = adaptable.targets, asked.lora_eviction_policy
    return AdapterPlan(slots, loaded, rank, targets, each, policy, slot, adaptable.whole, added)


def _depth(settings: Settings, note: _Notes) -> int:
    if settings.schedule.disable_overlap_schedule:
        return note("depth", 0, "--disable-overlap-schedule: no overlap")
    return note("depth", 1, "the next step is planned while one computes")


def _threads(settings: Settings, machine: Machine, note: _Notes) -> int:
    if settings.model.threads is not None:
        return note("threads", settings.model.threads, note.asked("threads"))
    if machine.cores > 2:
        return note("threads", machine.cores - 1, f"{machine.cores} cores, one left for the front end")
    return note("threads", machine.cores, "all cores that this process may use")


def _attention(settings: Settings, model: ModelConfig, machine: Machine, dtype: str, note: _Notes) -> str:
    compiled = _compiled(machine, dtype)
    asked = settings.model.attention_backend
    if asked != "auto":
        return str(note("attention_backend", asked, note.asked("attention_backend")))
    if compiled and all(size % HEAD == 0 for size in model.kept[1:]):
        return str(note("attention_backend", "cpu", f"compiled kernels ({machine.kernels}) that walk the pages"))
    if model.softcapped or model.sinks:
        return str(note("attention_backend", "reference", "torch's fused attention has no caps of scores and no sinks"))
    return str(note("attention_backend", "torch_native", "torch's fused attention over gathered pages"))


def _linears(
    settings: Settings,
    model: ModelConfig,
    machine: Machine,
    dtype: str,
    quantization: str,
    attention: str,
    note: _Notes,
) -> str:
    asked, compiled = settings.model.linear_backend, _compiled(machine, dtype)
    if asked == "packed" and not compiled:
        raise StartupError(f"--linear-backend packed: no kernels are compiled here for {dtype}", "See ramify doctor.")
    if asked == "torch" and quantization != "none":
        raise StartupError(f"--linear-backend torch: torch does not multiply with {quantization} weights")
    if asked == "torch":
        chosen = note("linear_backend", "torch", note.asked("linear_backend"))
    elif compiled:
        chosen = note("linear_backend", "packed", f"compiled kernels ({machine.kernels}) over packed weights")
    elif quantization != "none":
        why = f"no compiled kernels for this: {quantization} in plain torch, slowly"
        chosen = note("linear_backend", "reference", why)
    else:
        chosen = note("linear_backend", "torch", "torch, weights as they come")
    _invariance(model, chosen == "packed", attention == "cpu", note)
    return str(chosen)


def _invariance(model: ModelConfig, linears: bool, attention: bool, note: _Notes) -> None:
    """Whether the numbers of a request depend on the request alone; see docs/decisions/003."""
    if model.generic is not None:
        between = "what transformers' code computes between linears and attention is torch's"
        note("batch_invariance", "no", f"{between}, whose rounding depends on what else is in the step")
        return
    if linears and attention:
        note("batch_invariance", "yes", "every sum has one order, whatever else is in the step")
        return
    which = [name for name, yes in (("linears", not linears), ("attention", not attention)) if yes]
    note(
        "batch_invariance",
        "no",
        f"{' and '.join(which)} are torch's here, whose rounding depends on what else is in the step",
    )


def _plan_memory(
    settings: Settings,
    model: ModelConfig,
    machine: Machine,
    dtype: str,
    quantization: str,
    kv_dtype: str,
    context: int,
    rows: int,
    page_size: int,
    chunk: int,
    beside: int,
    budget: Budget | None,
    note: _Notes,
) -> MemoryPlan:
    element = ELEMENT_BYTES[dtype]
    weights = weight_bytes(model, dtype, quantization, quantized_of(model.raw))
    per_token = kv_bytes(model, kv_dtype)
    activations = _activations(model, chunk + rows, rows, element)
    share, allowed = _allowed(settings, machine, budget, note)
    room = allowed - weights - activations - PROCESS_BYTES - beside
    useful = rows * context
    asked = settings.cache.max_total_tokens
    state = state_bytes(model, dtype)
    slots = _state_slots(settings, state, per_token, room, rows, useful, note)
    room -= slots * state
    windows = _Windows(per_token, window_bytes(model, kv_dtype), rows * ((model.window or 0) + chunk + 2 * page_size))
    tokens = min(windows.fit(room), useful) if asked is None else asked
    tokens = tokens // page_size * page_size
    pool = windows.size(tokens)
    if asked is not None and pool + slots * state + weights + activations + beside > machine.memory:
        raise StartupError(
            f"--max-total-tokens {asked} needs {_gib(pool)} beside {_gib(weights)} of weights, and "
            f"{_gib(machine.memory)} are available",
            f"At most about {windows.fit(max(room, 0))} tokens fit.",
        )
    if asked is not None and tokens < page_size:
        raise StartupError(f"--max-total-tokens {asked} is less than one page of {page_size} tokens")
    if asked is None and (tokens < min(SMALLEST_POOL, context) or tokens < page_size):
        raise StartupError(
            f"the model does not fit: weights {_gib(weights)}, activations {_gib(activations)}, and of the "
            f"{_gib(machine.memory)} available {share:.0%} may be used, which leaves {windows.fit(max(room, 0))} "
            "tokens of KV cache",
            "Use a smaller model, a larger --mem-fraction-static, or a machine with more memory.",
        )
    if asked is not None:
        reason = note.asked("max_total_tokens") + ("" if tokens == asked else ", in whole pages")
    elif tokens >= useful // page_size * page_size:
        reason = f"all that {rows} requests of {context} tokens can use"
    else:
        reason = f"what {share:.0%} of {_gib(machine.memory)} leaves beside the weights ({_gib(weights)})"
    note("max_total_tokens", tokens, reason)
    window = 0
    if model.window is not None:
        window = windows.beside(tokens) // page_size * page_size
        note("window_tokens", window, f"for the layers that see {model.window} tokens, beside those for the others")
    return MemoryPlan(
        machine.memory,
        share,
        weights,
        activations,
        pool + slots * state,
        tokens,
        per_token,
        window,
        slots,
        state,
        beside,
    )


def _allowed(settings: Settings, machine: Machine, budget: Budget | None, note: _Notes) -> tuple[float, int]:
    """The share of the memory that may be used, and its bytes."""
    if budget is not None:
        share = budget.size / machine.memory
        note("mem_fraction_static", round(share, 3), budget.reason)
        return share, budget.size
    share = note.asked_or("mem_fraction_static", settings.cache.mem_fraction_static, lambda: (SHARE, ON_CPU))
    return share, int(machine.memory * share)


def _state_slots(settings: Settings, size: int, per_token: int, room: int, rows: int, useful: int, note: _Notes) -> int:
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
            f"the model does not fit: the state of a request is {_gib(size)}, and {_gib(max(room, 0))} are left",
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


def _plan_without_pages(
    settings: Settings,
    model: ModelConfig,
    machine: Machine,
    dtype: str,
    quantization: str,
    chunk: int,
    budget: Budget | None,
    note: _Notes,
) -> MemoryPlan:
    """Weights and one step."""
    element = ELEMENT_BYTES[dtype]
    weights = weight_bytes(model, dtype, quantization, quantized_of(model.raw))
    activations = _activations(model, chunk, 0, element)
    share, allowed = _allowed(settings, machine, budget, note)
    if weights + activations + PROCESS_BYTES > allowed:
        raise StartupError(
            f"the model does not fit: weights {_gib(weights)}, a step of {chunk} tokens {_gib(activations)}, and of "
            f"the {_gib(machine.memory)} available {share:.0%} may be used",
            "Use a smaller model, a shorter --context-length, or a machine with more memory.",
        )
    note("max_total_tokens", 0, "nothing is kept between steps")
    return MemoryPlan(machine.memory, share, weights, activations, 0, 0, 0)


def _activations(model: ModelConfig, tokens: int, rows: int, element: int) -> int:
    """A generous peak of one step: a few copies of the widest layer for every token, and logits for every row."""
    widest = max(2 * model.mlp, (model.heads + 2 * model.kv_heads) * model.head_dim)
    if model.recurrent is not None:
        widest = max(widest, 2 * (model.recurrent.inner + model.recurrent.channels))
    return tokens * (widest + 4 * model.hidden) * element * 2 + (rows + 256) * model.vocab * 4 * 3


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
