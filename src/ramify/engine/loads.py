"""How busy the engine is, in the fields of SGLang's `/v1/loads`. What is not measured here is not in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ramify.config.resolve import Resolved
from ramify.engine.meter import EngineMeter

if TYPE_CHECKING:
    from ramify.adapters.registry import Registry
    from ramify.engine.loop import Loop

GIB = 1 << 30


def loads(loop: Loop, resolved: Resolved, meter: EngineMeter, adapters: Registry | None = None) -> dict[str, Any]:
    """By section: `core`, `memory`, `queues`, and `lora` where there are adapters."""
    found = {"core": _core(loop, resolved, meter), "memory": memory(resolved), "queues": _queues(loop)}
    return found if adapters is None else found | {"lora": _lora(adapters)}


def _core(loop: Loop, resolved: Resolved, meter: EngineMeter) -> dict[str, Any]:
    scheduler, counts = loop.scheduler, loop.scheduler.counts
    used = scheduler.ledger.used * scheduler.ledger.page_size
    waiting = sum(len(r.tokens) - (r.match.tokens if r.match is not None else 0) for r in scheduler.waiting)
    running = len(scheduler.running)
    return {
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": len(scheduler.waiting),
        "num_waiting_uncached_tokens": waiting,
        "num_used_tokens": used,
        "num_total_tokens": used + waiting,
        "max_total_num_tokens": scheduler.capacity,
        "max_running_requests": resolved.rows,
        "token_usage": meter.usage,
        "gen_throughput": meter.rates.generated,
        "cache_hit_rate": meter.rates.hit_rate,
        "utilization": max(running / resolved.rows, meter.usage),
        "total_prefill_uncached_tokens": counts.prompt_tokens - counts.cached_tokens,
    }


def memory(resolved: Resolved) -> dict[str, Any]:
    """In GiB, and in tokens."""
    plan = resolved.memory
    return {
        "weight_gb": round(plan.weights / GIB, 3),
        "kv_cache_gb": round(plan.pool / GIB, 3),
        "graph_gb": 0.0,
        "token_capacity": plan.pool_tokens,
    }


def _lora(adapters: Registry) -> dict[str, Any]:
    used, slots = adapters.slots_used, adapters.plan.slots
    return {"slots_used": used, "slots_total": slots, "utilization": adapters.utilization}


def _queues(loop: Loop) -> dict[str, Any]:
    """`paused` are frozen where they stood, `retracted` have run before and wait to go on."""
    scheduler = loop.scheduler
    return {
        "waiting": len(scheduler.waiting),
        "grammar": 0,
        "paused": len(scheduler.running) if loop.paused else 0,
        "retracted": sum(request.preempted > 0 for request in scheduler.waiting),
    }
