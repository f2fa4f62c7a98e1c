"""Questions and orders that reach the engine beside requests: what outlives a request has one writer, here."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ramify.adapters.registry import Adapter, Registry
from ramify.config.resolve import Resolved
from ramify.core import log as logs
from ramify.core.errors import BadRequest
from ramify.engine.ask import ADAPTERS_OFF
from ramify.engine.idle import Idle
from ramify.engine.loads import loads, memory
from ramify.engine.meter import EngineMeter
from ramify.engine.profile import NoProfiler, Profiler, TraceFolder
from ramify.engine.sessions import Sessions
from ramify.engine.waiting import NotYet, Waiting, when_done
from ramify.wire.messages import Control, FreezeGC, Logging, Submit, Turn

if TYPE_CHECKING:
    from ramify.engine.loop import Loop

log = logging.getLogger(__name__)

MAX_WAIT = 600.0
BUSY = "there are running or waiting requests"


class Controls:
    """One method per name; each returns the answer's value, or raises why not: `ValueError`, `UserError`, `NotYet`."""

    def __init__(
        self,
        resolved: Resolved,
        meter: EngineMeter,
        sessions: Sessions,
        profiler: Profiler | None = None,
        clock: Callable[[], float] = time.monotonic,
        idle: Idle | None = None,
        adapters: Registry | None = None,
    ) -> None:
        self._idle = idle or Idle(None)
        self._adapters = adapters
        self._resolved = resolved
        self._meter = meter
        self._sessions = sessions
        self._profiler = profiler or NoProfiler()
        self._traces = TraceFolder(resolved.settings.log.profile_dir)
        self._clock = clock
        self._waiting = Waiting(clock)
        self._logging = logging_of(resolved)
        self._delay = 0.0
        self._known: dict[str, Callable[[Loop, Control], Any]] = {
            "ping": lambda loop, control: None,
            "paused": lambda loop, control: loop.paused,
            "state": self._state,
            "loads": lambda loop, control: loads(loop, resolved, meter, adapters),
            "metrics": lambda loop, control: meter.exposition(),
            "abort": self._abort,
            "flush_cache": self._flush_cache,
            "pause": self._pause,
            "continue": self._continue,
            "open_session": self._open_session,
            "close_session": self._close_session,
            "session_prompt": self._session_prompt,
            "configure_logging": self._configure_logging,
            "start_profile": self._start_profile,
            "stop_profile": self._stop_profile,
            "slow_down": self._slow_down,
            "freeze_gc": self._freeze_gc,
            "adapters": lambda loop, control: [] if adapters is None else adapters.listed(),
            "load_adapter": self._load_adapter,
            "unload_adapter": self._unload_adapter,
            "adopt": self._adopt,
            "stop": self._stop,
        }

    # -- what the loop asks ------------------------------------------------------------------------------------------

    def handle(self, loop: Loop, control: Control) -> None:
        self._waiting.answer(loop.channel, control, lambda: self._do(loop, control))

    def _do(self, loop: Loop, control: Control) -> Any:
        do = self._known.get(control.name)
        if do is None:
            raise ValueError(f"the engine knows no order {control.name!r}")
        return do(loop, control)

    def submit(self, loop: Loop, submit: Submit) -> None:
        """Give a request to the scheduler, and to its session where it has one."""
        if submit.turn is None:
            loop.scheduler.submit(submit)
            return
        self._sessions.check(submit)
        loop.scheduler.submit(submit)
        self._end(loop, self._sessions.begin(submit))

    def last_word(self, rid: str, keep: int) -> None:
        self._sessions.last_word(rid, keep)

    def tick(self, loop: Loop) -> None:
        self._waiting.tick(loop.channel)
        self._idle.look(lambda: self._is_needed(loop))
        if self._delay and loop.flying:
            time.sleep(self._delay)

    def patience(self) -> float | None:
        due = [seconds for seconds in (self._waiting.patience(), self._idle.patience()) if seconds is not None]
        return min(due, default=None)

    def _is_needed(self, loop: Loop) -> bool:
        """Something is computed, or would be lost with this process."""
        if not loop.is_idle or self._waiting.patience() is not None:
            return True
        return loop.paused or len(self._sessions) > 0

    # -- requests ----------------------------------------------------------------------------------------------------

    def _end(self, loop: Loop, rids: Iterable[str]) -> int:
        """End requests, with what they have so far; returns how many there were."""
        replies = [loop.scheduler.abort(rid) for rid in rids]
        loop.reply([reply for reply in replies if reply is not None])
        return len(replies)

    def _abort(self, loop: Loop, control: Control) -> int:
        """End the request of this very id, or its parts `<id>_<i>` and `<id>_<i>_<choice>`; with `all`, everything.
        Returns how many.
        """
        rid = control.args.get("rid")
        if control.args.get("all"):
            return self._end(loop, list(loop.scheduler.requests))
        if not rid:
            raise ValueError("abort needs a rid, or all")
        part = re.compile(re.escape(str(rid)) + r"(_\d+){0,2}")
        return self._end(loop, [known for known in loop.scheduler.requests if part.fullmatch(known)])

    def _flush_cache(self, loop: Loop, control: Control) -> int:
        """Only while nothing holds a page; while generation is paused, requests may wait."""
        quiet = loop.is_idle or (loop.paused and not loop.scheduler.holds_pages)
        if not quiet:
            raise NotYet(BUSY, min(float(control.args.get("timeout", 0.0)), MAX_WAIT))
        return loop.scheduler.ledger.flush()

    def _pause(self, loop: Loop, control: Control) -> None:
        """`abort` ends every request first, `retract` puts what runs back into the queue, `in_place` freezes it."""
        mode = control.args.get("mode")
        if mode not in ("abort", "retract", "in_place"):
            raise ValueError(f"there is no mode {mode!r} of pausing")
        loop.pause()
        if mode == "abort":
            self._end(loop, list(loop.scheduler.requests))
        elif mode == "retract":
            loop.scheduler.preempt_all()
        log.info("paused (%s): %d run, %d wait", mode, len(loop.scheduler.running), len(loop.scheduler.waiting))

    def _continue(self, loop: Loop, control: Control) -> None:
        if loop.paused:
            log.info("continued: %d run, %d wait", len(loop.scheduler.running), len(loop.scheduler.waiting))
        loop.paused = False

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _open_session(self, loop: Loop, control: Control) -> str:
        args = control.args
        return self._sessions.open(args.get("session_id"), args["capacity"], args.get("timeout"))

    def _close_session(self, loop: Loop, control: Control) -> None:
        if not self._sessions.close(control.args["session_id"]):
            log.info("there is no session %s to close", control.args["session_id"])

    def _session_prompt(self, loop: Loop, control: Control) -> list[int]:
        """What a turn goes on from. A turn that is replaced while it runs ends here; the worker that had asked for it
        may still have to say where its text ended.
        """
        args = control.args
        turn = Turn(args["session"], args["after"], args["replace"])
        running = self._sessions.running(turn)
        if running is not None:
            self._end(loop, [running])
        return self._sessions.prefix(turn, args["offset"], args["drop_output"])

    # -- adapters ----------------------------------------------------------------------------------------------------

    def _registry(self) -> Registry:
        if self._adapters is None:
            raise BadRequest(ADAPTERS_OFF, code="adapters_off")
        return self._adapters

    def _load_adapter(self, loop: Loop, control: Control) -> dict[str, Any]:
        """Answered when it is read; until then requests may name it and wait."""
        args, registry = control.args, self._registry()
        return self._loaded(registry, registry.load(args["name"], args["path"], bool(args.get("pinned"))))

    def _loaded(self, registry: Registry, adapter: Adapter) -> dict[str, Any]:
        if not adapter.reading.done():
            again = partial(self._loaded, registry, adapter)
            raise NotYet(f"the adapter {adapter.name!r} is not read yet", MAX_WAIT, again=again, poll=True)
        return registry.settled(adapter)

    def _unload_adapter(self, loop: Loop, control: Control) -> dict[str, Any]:
        """No request can name it from now on; answered when those that have it have ended."""
        registry = self._registry()
        adapter = registry.unload(control.args["name"])
        return self._unloaded(registry, adapter, registry.record(adapter))

    def _unloaded(self, registry: Registry, adapter: Adapter, record: dict[str, Any]) -> dict[str, Any]:
        if not registry.release(adapter):
            again = partial(self._unloaded, registry, adapter, record)
            text = f"the adapter {adapter.name!r} takes no more requests and goes when those that have it have ended"
            raise NotYet(text, MAX_WAIT, again=again, poll=True)
        return record

    # -- processes ---------------------------------------------------------------------------------------------------

    def _adopt(self, loop: Loop, control: Control) -> dict[str, Any]:
        """An API worker says hello: requests of one that had its place and died are nobody's now."""
        loop.scheduler.forget(control.origin)
        self._sessions.forget(control.origin)
        loop.channel.send(control.origin, self._logging)
        return self.facts()

    def facts(self) -> dict[str, Any]:
        """What a client needs to know of the engine that it cannot read from the settings."""
        return {"max_total_tokens": self._resolved.memory.pool_tokens, "started": self._meter.started}

    def _configure_logging(self, loop: Loop, control: Control) -> None:
        """What is not named stays as it is."""
        changed = {name: value for name, value in control.args.items() if value is not None}
        self._logging = msgspec.structs.replace(self._logging, **changed)
        logs.set_level(self._logging.log_level)
        loop.channel.broadcast(self._logging)

    def _start_profile(self, loop: Loop, control: Control) -> Any:
        asked = self._traces.profile(control.args)
        log.info("profiling into %s", asked.path)
        return when_done(self._profiler.start(asked), "the profiler does not start", MAX_WAIT)

    def _stop_profile(self, loop: Loop, control: Control) -> Any:
        return when_done(self._profiler.stop(), "the trace is not written yet", MAX_WAIT)

    def _slow_down(self, loop: Loop, control: Control) -> None:
        """Sleep after every step, to see what others do when this server is slow."""
        self._delay = float(control.args.get("seconds") or 0.0)

    def _freeze_gc(self, loop: Loop, control: Control) -> None:
        gc.collect()
        gc.freeze()
        loop.channel.broadcast(FreezeGC())

    def _state(self, loop: Loop, control: Control) -> dict[str, Any]:
        scheduler, rates = loop.scheduler, self._meter.rates
        sizes = memory(self._resolved)
        return {
            "memory_usage": {
                "weight": sizes["weight_gb"],
                "kvcache": sizes["kv_cache_gb"],
                "token_capacity": sizes["token_capacity"],
                "graph": sizes["graph_gb"],
            },
            "effective_max_running_requests_per_dp": self._resolved.rows,
            "world_size": 1,
            "num_running_reqs": len(scheduler.running),
            "num_waiting_reqs": len(scheduler.waiting),
            "num_used_tokens": scheduler.ledger.used * scheduler.ledger.page_size,
            "max_total_num_tokens": scheduler.capacity,
            "token_usage": self._meter.usage,
            "last_gen_throughput": rates.generated,
            "cache_hit_rate": rates.hit_rate,
            "counts": asdict(scheduler.counts),
            "uptime": self._clock() - self._meter.started,
            "is_paused": loop.paused,
            "num_sessions": len(self._sessions),
        }

    def _stop(self, loop: Loop, control: Control) -> None:
        loop.stopping = True


def logging_of(resolved: Resolved) -> Logging:
    """As the settings have it at the start."""
    asked = resolved.settings.log
    return Logging(asked.log_level, asked.log_requests, asked.log_requests_level, asked.log_requests_format)
