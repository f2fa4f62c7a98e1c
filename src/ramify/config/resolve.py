"""From what was asked, what the model is and what the machine has, to what a run uses; every choice with its reason.

Pure: the same arguments give the same answer, and `ramify explain` prints it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ramify.config.adapters import Adaptable, AdapterPlan
from ramify.config.flags import value_instead_of
from ramify.config.gpu import index_of
from ramify.config.machine import Machine
from ramify.config.memory import MIB, Budget, MemoryPlan, Sized, plan_memory, plan_without_pages
from ramify.config.model import ModelConfig
from ramify.config.notes import Decision, Notes
from ramify.config.on_cpu import OnCpu
from ramify.config.on_gpu import OnGpu
from ramify.config.parts import PART_OF
from ramify.config.quantized import METHODS, MOST_INPUTS, quantized_of
from ramify.config.read import refusal_of
from ramify.config.settings import Settings, names
from ramify.config.stored import ELEMENT_BYTES
from ramify.config.target import SPELLINGS, Invariance, Target
from ramify.core.errors import BadRequest, StartupError
from ramify.core.params import SamplingParams

QUANTIZATIONS = {"w8a8_int8": "w8a8"}  # SGLang's names of ours
USUAL_RANK, USUAL_LOADED = 16, 32  # of adapters
TEXTS, TOGETHER = 256, 1024  # that an encoder computes together by default, and their tokens
EIGHT_BITS = {"int8": ", with a scale for every token and head", "fp8_e4m3": ", cast without a scale"}
KEPT = {**SPELLINGS, "fp8_e4m3": "float8_e4m3fn"}  # types of keys and values
SECRETS = ("api_key", "admin_api_key")  # never shown, in no list of settings


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
    invariance: Invariance = "no"
    captured: tuple[int, ...] = ()  # numbers of rows for which steps are captured as graphs, ascending

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
    note = Notes(settings.sources)
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
    target = _target(settings, machine, note)
    dtype = target.dtype(settings, model, note)
    quantization = _quantization(settings, model, target.computed_by(dtype), dtype, note)
    kv_dtype = _kv_dtype(settings, model, dtype, target, note)
    context = _context(settings, model, note)
    most = (target.rows, target.default) if model.encoder is None else (TEXTS, target.default)
    rows = note.asked_or("max_running_requests", settings.schedule.max_running_requests, lambda: most)
    page_size = _page_size(settings, model, context, target, note)
    chunk = _chunk(settings, model, context, target, note)
    adapters = None if adaptable is None else _adapters(settings, adaptable, ELEMENT_BYTES[dtype], rows, note)
    attention = target.attention(settings, model, dtype, note)
    linears = target.linears(settings, model, dtype, quantization, note)
    invariance = target.invariance(settings, model, linears, attention, note)
    captured = target.captured(settings, model, rows, note)
    kinds = (1 + (invariance == "asked")) * (1 + (adapters is not None))
    beside = 0 if adapters is None or model.encoder is not None else adapters.size
    sized = Sized(
        settings, model, dtype, quantization, kv_dtype, context, rows, page_size, chunk, beside, captured, kinds
    )
    plan = plan_memory if model.encoder is None else plan_without_pages
    memory = plan(sized, target, budget, note)
    return Resolved(
        settings=settings,
        model=model,
        folder=folder,
        served_name=served,
        device=target.device,
        dtype=dtype,
        quantization=quantization,
        kv_dtype=kv_dtype,
        context=context,
        page_size=page_size,
        rows=rows,
        queue=note.asked_or("max_queued_requests", settings.schedule.max_queued_requests, lambda: (4096, "default")),
        chunk=chunk,
        depth=_depth(settings, note),
        threads=target.threads(settings, note),
        attention=attention,
        linears=linears,
        memory=memory,
        decisions=(*note.made, *_taken_as_asked(settings, note)),
        adapters=adapters,
        invariance=invariance,
        captured=captured,
    )


def device_of(settings: Settings) -> str:
    """`cpu` or `cuda:N`; raises `StartupError` for what is neither."""
    asked = settings.model.device
    if asked in ("auto", "cpu"):
        return "cpu"
    index = index_of(asked)
    if index is None:
        raise StartupError(f"--device {asked} is not one of auto, cpu, cuda, cuda:N", value_instead_of("device", asked))
    return f"cuda:{index}"


def target_of(settings: Settings, machine: Machine) -> Target:
    """What decides where the device does; the GPU that is asked for has been asked."""
    device = device_of(settings)
    if device == "cpu":
        return OnCpu(machine)
    return OnGpu(next(gpu for gpu in machine.gpus if gpu.index == index_of(device)))


def _target(settings: Settings, machine: Machine, note: Notes) -> Target:
    target = target_of(settings, machine)
    why = "default: a GPU computes where --device cuda asks for it, until somebody has seen that run"
    note("device", target.device, why if settings.model.device == "auto" else note.asked("device"))
    return target


def _task(settings: Settings, model: ModelConfig, note: Notes) -> tuple[str, str]:
    """What the model is served for."""
    head = model.head
    if head is None:
        return "generate", f"{model.architecture} has no other head"
    if settings.model.is_embedding and head.task == "embed":
        return head.task, note.asked("is_embedding")
    how = f"{' and '.join(head.pooling)} of the hidden states, {head.size} numbers"
    return head.task, f"{model.architecture}{' and modules.json' if head.task == 'embed' else ''}: {how}"


def _implementation(settings: Settings, model: ModelConfig, note: Notes) -> tuple[str, str]:
    """Whose code computes the model."""
    name = "native" if model.generic is None else "transformers"
    if settings.model.model_impl != "auto":
        return name, note.asked("model_impl")
    if model.generic is None:
        return name, f"ramify has code of its own for {model.architecture}"
    return name, f"no native code computes this {model.architecture}: {model.generic.release} does, over our cache"


def _taken_as_asked(settings: Settings, note: Notes) -> tuple[Decision, ...]:
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


def _quantization(settings: Settings, model: ModelConfig, how: str, dtype: str, note: Notes) -> str:
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
    return note("quantization", QUANTIZATIONS.get(asked, asked), f"{note.asked('quantization')}, computed by {how}")


def _kv_dtype(settings: Settings, model: ModelConfig, dtype: str, target: Target, note: Notes) -> str:
    asked = settings.cache.kv_cache_dtype
    if asked == "int8" and model.latent is not None:
        raise StartupError("--kv-cache-dtype int8: what this model keeps are latents, which stay in its own type")
    if asked in EIGHT_BITS and asked not in target.kept:
        raise StartupError(
            f"--kv-cache-dtype {asked}: no kernels for that on the device {target.device}",
            f"In eight bits there is {' and '.join(target.kept)} here.",
        )
    if asked == "auto":
        return note("kv_cache_dtype", dtype, "that of the model")
    return note("kv_cache_dtype", KEPT.get(asked, asked), note.asked("kv_cache_dtype") + EIGHT_BITS.get(asked, ""))


def _context(settings: Settings, model: ModelConfig, note: Notes) -> int:
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


def _page_size(settings: Settings, model: ModelConfig, context: int, target: Target, note: Notes) -> int:
    if model.encoder is not None:
        return note("page_size", context, "nothing is kept between steps: there are no pages")
    return note.asked_or("page_size", settings.cache.page_size, lambda: (16, target.default))


def _chunk(settings: Settings, model: ModelConfig, context: int, target: Target, note: Notes) -> int:
    asked = settings.schedule.chunked_prefill_size
    if model.encoder is not None:
        most = max(asked or TOGETHER, context)
        return note("chunked_prefill_size", most, "tokens of a step: a text is computed whole, others beside it")
    if asked == -1:
        return note("chunked_prefill_size", context, "no limit: a whole context fits one step")
    return note.asked_or("chunked_prefill_size", asked, target.chunk)


def _adapters(settings: Settings, adaptable: Adaptable, element: int, rows: int, note: Notes) -> AdapterPlan:
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


def _depth(settings: Settings, note: Notes) -> int:
    if settings.schedule.disable_overlap_schedule:
        return note("depth", 0, "--disable-overlap-schedule: no overlap")
    return note("depth", 1, "the next step is planned while one computes")
