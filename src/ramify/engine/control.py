"""Questions and orders that reach the engine beside requests: what outlives a request has one writer, here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ramify.config.resolve import Resolved
from ramify.engine.meter import EngineMeter
from ramify.wire.messages import Answer, Control

if TYPE_CHECKING:
    from ramify.engine.loop import Loop

MAX_WAIT = 600.0


@dataclass(frozen=True)
class _Waiting:
    """An order that waits for the engine to be idle."""

    control: Control
    until: float


class Controls:
    """One method per name; each returns the answer's value, or raises `ValueError` with why not."""

    def __init__(self, resolved: Resolved, meter: EngineMeter, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolved = resolved
        self._meter = meter
        self._clock = clock
        self._flushes: list[_Waiting] = []
        self._known: dict[str, Callable[[Loop, Control], Any]] = {
            "ping": lambda loop, control: None,
            "state": self._state,
            "metrics": lambda loop, control: meter.exposition(),
            "abort": self._abort,
            "flush_cache": self._flush_cache,
            "adopt": self._adopt,
            "stop": self._stop,
        }

    def handle(self, loop: Loop, control: Control) -> None:
        do = self._known.get(control.name)
        try:
            if do is None:
                raise ValueError(f"the engine knows no order {control.name!r}")
            value = do(loop, control)
        except ValueError as e:
            loop.channel.send(control.origin, Answer(control.ticket, error=str(e)))
            return
        if value is not LATER:
            loop.channel.send(control.origin, Answer(control.ticket, value))

    def tick(self, loop: Loop) -> None:
        """Once per step: what waited for idleness gets it, or gives up."""
        for waiting in list(self._flushes):
            idle = loop.is_idle
            if idle or self._clock() >= waiting.until:
                self._flushes.remove(waiting)
                answer = (
                    Answer(waiting.control.ticket, loop.scheduler.ledger.flush()) if idle else _busy(waiting.control)
                )
                loop.channel.send(waiting.control.origin, answer)

    def _flush_cache(self, loop: Loop, control: Control) -> Any:
        if loop.is_idle:
            return loop.scheduler.ledger.flush()
        timeout = min(float(control.args.get("timeout", 0.0)), MAX_WAIT)
        if timeout <= 0:
            raise ValueError(BUSY)
        self._flushes.append(_Waiting(control, self._clock() + timeout))
        return LATER

    def _abort(self, loop: Loop, control: Control) -> int:
        """End the request of this very id, or its parts `<id>_<i>` and `<id>_<i>_<choice>`; with `all`, everything.
        Returns how many.
        """
        rid = control.args.get("rid")
        if control.args.get("all"):
            chosen = list(loop.scheduler.requests)
        elif rid:
            part = re.compile(re.escape(str(rid)) + r"(_\d+){0,2}")
            chosen = [known for known in loop.scheduler.requests if part.fullmatch(known)]
        else:
            raise ValueError("abort needs a rid, or all")
        loop.reply([reply for known in chosen if (reply := loop.scheduler.abort(known)) is not None])
        return len(chosen)

    def _adopt(self, loop: Loop, control: Control) -> dict[str, Any]:
        """An API worker says hello: requests of one that had its place and died are nobody's now."""
        loop.scheduler.forget(control.origin)
        return self.facts()

    def facts(self) -> dict[str, Any]:
        """What a client needs to know of the engine that it cannot read from the settings."""
        return {"max_total_tokens": self._resolved.memory.pool_tokens, "started": self._meter.started}

    def _state(self, loop: Loop, control: Control) -> dict[str, Any]:
        scheduler, rates = loop.scheduler, self._meter.rates
        return {
            "num_running_reqs": len(scheduler.running),
            "num_waiting_reqs": len(scheduler.waiting),
            "num_used_tokens": scheduler.ledger.used * scheduler.ledger.page_size,
            "max_total_num_tokens": scheduler.capacity,
            "token_usage": self._meter.usage,
            "last_gen_throughput": rates.generated,
            "cache_hit_rate": rates.hit_rate,
            "counts": asdict(scheduler.counts),
            "uptime": self._clock() - self._meter.started,
        }

    def _stop(self, loop: Loop, control: Control) -> None:
        loop.stopping = True


LATER = object()  # the answer will be sent by `tick`
BUSY = "there are running or waiting requests"


def _busy(control: Control) -> Answer:
    return Answer(control.ticket, error=BUSY)
