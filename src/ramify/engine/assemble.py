"""Puts an engine together. The only module that knows which features exist."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ramify.adapters.registry import Registry
from ramify.cache.ledger import BESIDE, FULL, Ledger
from ramify.cache.state import StateShape
from ramify.cache.unpaged import Unpaged
from ramify.cache.window import WindowShape
from ramify.config.adapters import AdapterPath, named_paths
from ramify.config.memory import SMALLEST_POOL, fitted, gib, out_of_memory
from ramify.config.quantized import quantized_of
from ramify.config.resolve import Resolved
from ramify.config.settings import GrammarSettings
from ramify.core.errors import BadRequest, StartupError, UserError
from ramify.engine.build import load_model_tokenizer
from ramify.engine.control import Controls
from ramify.engine.idle import Idle
from ramify.engine.loop import Loop
from ramify.engine.meter import EngineMeter
from ramify.engine.remembered import Remembered
from ramify.engine.sessions import Sessions
from ramify.grammar.compiler import Compiler, Options
from ramify.grammar.constraint import Constraint, GrammarError
from ramify.grammar.gate import Grammars
from ramify.grammar.guides import GrammarGuides
from ramify.grammar.style import FIXED, FLEXIBLE, Style
from ramify.grammar.translate import check
from ramify.grammar.vocabulary import Vocabulary, vocabulary_of
from ramify.schedule.budget import StepBudget
from ramify.schedule.mode import ONE_MODE, TwoModes
from ramify.schedule.policy import make_policy
from ramify.schedule.scheduler import Observers, Scheduler
from ramify.weights.ahead import fetch
from ramify.weights.checkpoint import files_of
from ramify.wire.channel import EngineEnd
from ramify.worker.null import NullExecutor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ramify.adapters.table import AdapterTable
    from ramify.memory.kv import KVCache
    from ramify.ops.attention import AttentionBackend, AttentionShape
    from ramify.ops.kernels import Kernels
    from ramify.ops.platform import Platform
    from ramify.ops.staging import Staging
    from ramify.worker.encode import EncoderRunner
    from ramify.worker.executor import ThreadExecutor
    from ramify.worker.runner import Runner

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def assemble(
    resolved: Resolved,
    channel: EngineEnd,
    progress: Progress | None = None,
    idle: Idle | None = None,
    remembered: Remembered | None = None,
) -> Loop:
    """A loop that is ready to run: weights loaded, pages allocated. `idle` is told when there is nothing to do;
    `remembered` knows the adapters of an engine before this one.
    """
    guides = make_guides(resolved, channel)
    executor = make_executor(resolved, progress)
    resolved = as_made(resolved, executor)
    schedule, registry = resolved.settings.schedule, make_registry(resolved, executor, channel, remembered)
    meter, sessions = EngineMeter(resolved), Sessions()
    scheduler = Scheduler(
        make_ledger(resolved),
        StepBudget(resolved.chunk, resolved.rows, whole=resolved.model.encoder is not None),
        eos_ids=resolved.model.eos_ids,
        policy=make_policy(schedule.schedule_policy),
        gates=[guides, *([] if registry is None else [registry])],
        guides=guides,
        adapters=registry,
        modes=TwoModes() if resolved.invariance == "asked" else ONE_MODE,
        guided_ahead=1 if resolved.depth <= 1 else 0,
        max_queued=resolved.queue,
        conservativeness=schedule.schedule_conservativeness,
        preempt_above=schedule.priority_scheduling_preemption_threshold,
        observer=Observers(meter, sessions),
        clock=time.monotonic,
        seed=resolved.settings.model.random_seed,
    )
    meter.watch(scheduler)
    if registry is not None:
        registry.watch(scheduler.requests.values)
    profiler = None if isinstance(executor, NullExecutor) else executor.profiler
    control = Controls(resolved, meter, sessions, profiler, idle=idle, adapters=registry)
    return Loop(scheduler, executor, channel, depth=resolved.depth, control=control, meter=meter)


def make_registry(
    resolved: Resolved,
    executor: ThreadExecutor | NullExecutor,
    channel: EngineEnd,
    remembered: Remembered | None = None,
) -> Registry | None:
    """Adapters, those of `--lora-paths` read, or those that an engine before this one had."""
    if resolved.adapters is None:
        return None
    from ramify.adapters.store import AdapterStore
    from ramify.adapters.table import AdapterTable
    from ramify.worker.runner import Runner

    assert not isinstance(executor, NullExecutor), "refused before"
    assert isinstance(executor.runner, Runner)
    table = executor.runner.adapters
    assert isinstance(table, AdapterTable)
    registry = Registry(resolved.adapters, AdapterStore(table, resolved.adapters, executor.in_turn), channel.wake)
    former = None if remembered is None else remembered.read()
    try:
        for path in named_paths(resolved.settings.adapters.lora_paths or ()) if former is None else ():
            load_at_start(registry, path)
    except StartupError:
        registry.close()
        executor.close()
        raise
    load_again(registry, former or ())
    if remembered is not None:
        registry.tell_changes(remembered.write)
    return registry


def load_at_start(registry: Registry, path: AdapterPath, where: str = "--lora-paths") -> None:
    try:
        adapter = registry.load(path.lora_name, path.lora_path, path.pinned)
        wait([adapter.reading])
        registry.settled(adapter)
    except UserError as e:
        raise StartupError(f"{where} {path.lora_name}: {e.message}") from None
    log.info("adapter %s, of rank %d, from %s", path.lora_name, adapter.reading.result().rank, path.lora_path)


def load_again(registry: Registry, paths: Sequence[AdapterPath]) -> None:
    """What cannot be read any more is left out, and said: the engine serves the others."""
    for path in paths:
        try:
            load_at_start(registry, path, "loaded again")
        except StartupError as e:
            log.error("an adapter is lost with the engine that had it: %s", e.cause)


def make_ledger(resolved: Resolved) -> Ledger:
    """Pages, and a second group of them where some layers see only a window or keep a state; or none where nothing is
    kept between steps.
    """
    if resolved.model.encoder is not None:
        return Unpaged(resolved.rows, resolved.context)
    window, cache = resolved.model.window, resolved.settings.cache
    shape: WindowShape | StateShape | None = None
    if window is not None:
        shape = WindowShape(resolved.window_pages, window)
    elif resolved.model.recurrent is not None:
        shape = StateShape(resolved.memory.state_slots, cache.mamba_track_interval)
    reuse = not cache.disable_radix_cache
    return Ledger(resolved.pages, resolved.page_size, reuse=reuse, beside=shape)


def make_guides(resolved: Resolved, channel: EngineEnd) -> GrammarGuides:
    """Grammars, whose library and vocabulary are loaded when the first request wants one, or `warm` is called."""

    def vocabulary() -> Vocabulary:
        tokenizer = load_model_tokenizer(resolved)
        if tokenizer is None:
            raise BadRequest("structured output needs a tokenizer, and this server has none")
        return vocabulary_of(tokenizer, resolved.model.vocab, resolved.model.eos_ids)

    compiler = Compiler(vocabulary, Options(style=style_of(resolved.settings.grammar)), channel.wake)
    return GrammarGuides(Grammars(compiler), resolved.model.vocab)


def style_of(asked: GrammarSettings) -> Style:
    """How JSON is written where a schema leaves it open."""
    pattern = asked.constrained_json_whitespace_pattern
    if asked.constrained_json_disable_any_whitespace:
        return FIXED
    if pattern is None:
        return FLEXIBLE
    try:
        check(Constraint("regex", pattern))
    except GrammarError as e:
        raise StartupError(f"--constrained-json-whitespace-pattern {pattern!r}: {e.message}") from None
    return replace(FLEXIBLE, whitespace=pattern)


def make_executor(resolved: Resolved, progress: Progress | None = None) -> ThreadExecutor | NullExecutor:
    """The model on its device. Torch is imported here and not before."""
    if resolved.settings.model.load_format == "none":
        return NullExecutor(resolved.model.vocab)
    if resolved.settings.model.load_format != "dummy":
        fetch(files_of(resolved.folder))
    from ramify.ops.platform import make_platform
    from ramify.worker.executor import ThreadExecutor

    platform = make_platform(resolved.device, resolved.threads, resolved.dtype, resolved.linears, resolved.captured)
    platform.prepare_thread()
    return ThreadExecutor(make_runner(resolved, platform, progress), platform.prepare_thread)


def as_made(resolved: Resolved, executor: ThreadExecutor | NullExecutor) -> Resolved:
    """With the pages that there are: fewer than planned where the memory was gone."""
    from ramify.worker.runner import Runner

    if isinstance(executor, NullExecutor) or not isinstance(executor.runner, Runner):
        return resolved
    page = resolved.page_size
    full, *window = [(pool.nowhere - 1) * page for pool in executor.runner.pool.pools]
    memory = replace(resolved.memory, pool_tokens=full, window_tokens=window[0] if window else 0)
    return replace(resolved, memory=memory)


def make_runner(resolved: Resolved, platform: Platform, progress: Progress | None = None) -> Runner | EncoderRunner:
    """The model with its weights, and the pages it writes to; raises `StartupError` where they do not fit."""
    import torch

    try:
        return _make_runner(resolved, platform, progress)
    except torch.OutOfMemoryError:
        raise out_of_memory(resolved.memory, "weights and KV cache are allocated") from None


def _fitted(resolved: Resolved, platform: Platform) -> Resolved:
    """The plan against what is free, now that everything but the pool is there."""
    memory = resolved.memory
    if not memory.at_once:
        return resolved
    free = platform.free_bytes()
    found = fitted(memory, resolved.page_size, free, min(SMALLEST_POOL, resolved.context))
    if found is not memory:
        log.warning(
            "the KV cache has %d tokens, of %d planned: %s are free", found.pool_tokens, memory.pool_tokens, gib(free)
        )
    return replace(resolved, memory=found)


def _make_runner(resolved: Resolved, platform: Platform, progress: Progress | None) -> Runner | EncoderRunner:
    import torch

    from ramify.ops.reference import encode
    from ramify.worker.encode import EncoderRunner
    from ramify.worker.pooling import HeadPooler
    from ramify.worker.runner import Runner
    from ramify.worker.slots import Slots

    model, dtype = resolved.model, getattr(torch, resolved.dtype)
    attention = platform.attention(resolved.attention, _attended(resolved))
    kernels = platform.kernels
    if resolved.attention in ("reference", "torch_native"):
        kernels = replace(kernels, attend_texts=encode.attend_texts)
    built = _loaded(resolved, kernels, attention, platform.device, progress)
    adapters = None if resolved.adapters is None else _adapter_table(resolved, built, kernels, dtype, platform.staging)
    pooler = None
    if model.head is not None:
        pooler = HeadPooler(model.head, built.head, platform.staging, adapters)
    if model.encoder is not None:
        assert pooler is not None, "an encoder has a head"
        return EncoderRunner(built, pooler, platform.staging, platform.modes)
    resolved = _fitted(resolved, platform)
    pool = _pages(resolved, dtype, platform.device)
    sizes = (resolved.rows, resolved.context, resolved.page_size)
    slots = Slots(*sizes, model.eos_ids, platform.device, platform.staging, pool.nowhere)
    steps = (platform.recorder, pooler, adapters, platform.capturer, platform.modes)
    return Runner(built, pool, slots, attention, platform.kernels, *steps)


def _attended(resolved: Resolved) -> AttentionShape:
    """What the model asks of attention."""
    from ramify.ops.attention import AttentionShape

    model = resolved.model
    kv_heads, key, value = model.kept
    return AttentionShape(
        model.heads,
        kv_heads,
        key,
        resolved.page_size,
        resolved.dtype,
        resolved.device,
        value_dim=model.latent.kv_rank if model.latent else value,
        window=any(model.windowed),
        softcap=model.softcapped,
        sinks=model.sinks,
        chunks=model.chunk is not None,
        stored=resolved.kv_dtype,
    )


def _loaded(
    resolved: Resolved, kernels: Kernels, attention: AttentionBackend, device: torch.device, progress: Progress | None
) -> Any:
    """The model, its weights read or made up."""
    import torch

    from ramify.layers.build import Build
    from ramify.models.load import build_model, dummy_weights, load_weights
    from ramify.quant.choose import schemes_of

    model, settings = resolved.model, resolved.settings.model
    schemes = schemes_of(resolved.quantization, kernels, quantized_of(model.raw))
    build = Build(kernels, attention, *schemes, getattr(torch, resolved.dtype), device, resolved.context)
    built = build_model(build, model)
    if settings.load_format == "dummy":
        dummy_weights(built, model, settings.random_seed)
    else:
        load_weights(built, resolved.folder, model, progress)
    return built


def _pages(resolved: Resolved, dtype: torch.dtype, device: torch.device) -> KVCache:
    """A pool for each group of layers, and states for those that keep one."""
    import torch

    from ramify.memory.kv import KVCache, KVPool, StatePool

    model, kept = resolved.model, getattr(torch, resolved.kv_dtype)
    kv_heads, key, _ = model.kept
    shared = model.latent.kv_rank if model.latent else None
    beside = model.recurrent.layers if model.recurrent is not None else model.windowed
    groups = [BESIDE if other else FULL for other in beside]
    states = None
    if model.recurrent is not None:
        states = StatePool(groups.count(BESIDE), resolved.memory.state_slots, model.recurrent, dtype, device)
    pools = [
        KVPool(groups.count(group), pages, kv_heads, resolved.page_size, key, kept, device, shared)
        for group, pages in enumerate((resolved.pages, resolved.window_pages))
        if group == FULL or any(model.windowed)
    ]
    return KVCache(pools, groups, states)


def _adapter_table(
    resolved: Resolved, built: nn.Module, kernels: Kernels, dtype: torch.dtype, staging: Staging
) -> AdapterTable:
    """Over the linears of a loaded model."""
    from ramify.adapters.table import AdapterTable
    from ramify.models.adapted import chosen, sites_of

    plan = resolved.adapters
    assert plan is not None
    sites = sites_of(resolved.model)
    words = {name: site for name, site in sites.items() if site.can_be_whole}
    some = chosen(sites, plan.targets)
    return AdapterTable(built, some, plan.slots, plan.rank, kernels, dtype, words, plan.added, staging)
