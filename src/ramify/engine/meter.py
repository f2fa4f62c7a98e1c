"""What the engine counts: for `/metrics`, for `/server_info`, and for the throughput line in the log.

Numbers are plain; the exposition is made when somebody asks. Names and meanings are SGLang's, with the prefix
`ramify:`; `metrics_compat` exports them under `sglang:` as well, so that boards made for it go on working.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ramify.adapters.registry import Adapter, Registry
from ramify.config.resolve import Resolved
from ramify.schedule.request import Request
from ramify.schedule.scheduler import Counts, Scheduler
from ramify.wire.messages import Reply
from ramify.wire.plan import Plan

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
TTFT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
ITL = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 4, 8)
E2E = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400)
RATES = 5.0  # seconds over which rates are measured where no line is logged
TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


class Histogram:
    """Counts by bucket; `bounds` are upper bounds, the last bucket has none."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        total, made = 0, []
        for bound, count in zip([*map(str, map(float, self.bounds)), "+Inf"], self.counts, strict=True):
            total += count
            made.append((bound, float(total)))
        return made


@dataclass(slots=True)
class Rates:
    """Of the last interval, in tokens per second."""

    prompt: float = 0.0
    generated: float = 0.0
    hit_rate: float = 0.0


class EngineMeter:
    """Told of everything by the scheduler (as its observer) and by the loop (as its meter)."""

    def __init__(self, resolved: Resolved, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolved = resolved
        self._clock = clock
        self._logs = resolved.settings.log.log_interval > 0
        self._interval = resolved.settings.log.log_interval or RATES
        self._scheduler: Scheduler | None = None
        self.started = clock()
        self.rates = Rates()
        self.ttft, self.itl, self.e2e = Histogram(TTFT), Histogram(ITL), Histogram(E2E)
        self.queue_time = Histogram(E2E)
        self.prompt_lengths, self.output_lengths = Histogram(TOKENS), Histogram(TOKENS)
        self.ended: Counter[str] = Counter()
        self._last_step: float | None = None
        self._line_at = clock()
        self._line_counts = Counts()

    def watch(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Scheduler:
        assert self._scheduler is not None, "watch() comes before anything is counted"
        return self._scheduler

    # -- observer of the scheduler -----------------------------------------------------------------------------------

    def admitted(self, request: Request) -> None:
        self.queue_time.observe(request.started_at - request.submitted_at)

    def first_token(self, request: Request) -> None:
        self.ttft.observe(request.first_token_at - request.submitted_at)

    def preempted(self, request: Request) -> None: ...

    def finished(self, request: Request) -> None:
        assert request.finish is not None
        self.ended[request.finish.type] += 1
        self.e2e.observe(self._clock() - request.submitted_at)
        self.prompt_lengths.observe(request.prompt_len)
        self.output_lengths.observe(request.outputs)

    # -- meter of the loop -------------------------------------------------------------------------------------------

    def launched(self, plan: Plan) -> None: ...

    def settled(self, plan: Plan, replies: Sequence[Reply]) -> None:
        now = self._clock()
        if self._last_step is not None:
            generating = sum(row.sample and row.count == 1 for row in plan.rows)
            if generating:
                self.itl.observe(now - self._last_step, generating)
        else:
            self._restart_line(now)
        self._last_step = now
        if now - self._line_at >= self._interval:
            self._line(now)

    def idle(self) -> None:
        """Silence from here on, after a last word about what was not told yet."""
        now = self._clock()
        if self._last_step is not None and now - self._line_at >= self._interval / 2:
            self._line(now)
        self._last_step = None
        self.rates = Rates(hit_rate=self.rates.hit_rate)

    def _restart_line(self, now: float) -> None:
        """Busy again: what was silent before does not count as slow."""
        self._line_at = now

    def _line(self, now: float) -> None:
        counts, last, seconds = self.scheduler.counts, self._line_counts, max(now - self._line_at, 1e-9)
        prompt = counts.prompt_tokens - last.prompt_tokens
        cached = counts.cached_tokens - last.cached_tokens
        self.rates = Rates(
            prompt=(prompt - cached) / seconds,
            generated=(counts.generated_tokens - last.generated_tokens) / seconds,
            hit_rate=cached / prompt if prompt else self.rates.hit_rate,
        )
        if self._logs:
            self._log()
        self._line_at = now
        self._line_counts = dataclasses.replace(counts)

    def _log(self) -> None:
        log.info(
            "running %d, queued %d, prompt %.1f tok/s, output %.1f tok/s, cache hit %.0f %%, KV used %.0f %%",
            len(self.scheduler.running),
            len(self.scheduler.waiting),
            self.rates.prompt,
            self.rates.generated,
            100 * self.rates.hit_rate,
            100 * self.usage,
        )

    @property
    def usage(self) -> float:
        """Share of the KV cache that running requests hold."""
        ledger = self.scheduler.ledger
        return ledger.used / ledger.total

    # -- exposition --------------------------------------------------------------------------------------------------

    def exposition(self) -> str:
        """Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        for prefix in ("ramify", *self._resolved.settings.log.metrics_compat_prefixes):
            yield from self._families(f"{prefix}:")

    def describe(self) -> list[Metric]:
        """Nothing to check for duplicates."""
        return []

    def _families(self, prefix: str) -> Iterator[Metric]:
        label = self._resolved.served_name
        for name, (text, value) in self._gauges().items():
            gauge = GaugeMetricFamily(prefix + name, text, labels=["model_name"])
            gauge.add_metric([label], value)
            yield gauge
        for name, (text, value) in self._counters().items():
            counter = CounterMetricFamily(prefix + name, text, labels=["model_name"])
            counter.add_metric([label], value)
            yield counter
        for name, (text, found) in self._histograms().items():
            histogram = HistogramMetricFamily(prefix + name, text, labels=["model_name"])
            histogram.add_metric([label], buckets=found.buckets(), sum_value=found.sum)
            yield histogram
        finished = CounterMetricFamily(
            prefix + "finished_requests", "Requests that ended, by how.", labels=["model_name", "finish_reason"]
        )
        for kind, count in sorted(self.ended.items()):
            finished.add_metric([label, kind], count)
        yield finished
        if isinstance(self.scheduler.adapters, Registry):
            yield self._adapters(prefix, self.scheduler.adapters)

    def _adapters(self, prefix: str, registry: Registry) -> Metric:
        """Names and meanings are vLLM's, which routers read; its value is the time."""
        info = GaugeMetricFamily(
            prefix + "lora_requests_info",
            "Adapters of requests, and how many can compute together.",
            labels=["model_name", "max_lora", "waiting_lora_adapters", "running_lora_adapters"],
        )
        named = [_names(requests) for requests in (self.scheduler.waiting, self.scheduler.running)]
        info.add_metric([self._resolved.served_name, str(registry.plan.slots), *named], time.time())
        return info

    def _gauges(self) -> dict[str, tuple[str, float]]:
        scheduler = self.scheduler
        ledger = scheduler.ledger
        return {
            **self._slots(),
            "num_running_reqs": ("Requests being computed.", len(scheduler.running)),
            "num_queue_reqs": ("Requests waiting.", len(scheduler.waiting)),
            "num_used_tokens": ("Tokens of KV cache that running requests hold.", ledger.used * ledger.page_size),
            "token_usage": ("The same as a share.", self.usage),
            "max_total_num_tokens": ("Size of the KV cache in tokens.", ledger.total * ledger.page_size),
            "gen_throughput": ("Tokens generated per second, of the last interval.", self.rates.generated),
            "cache_hit_rate": ("Share of prompt tokens found in the cache, of the last interval.", self.rates.hit_rate),
            "kv_evictable_tokens": (
                "Tokens of KV cache that hold prefixes nobody uses now.",
                (ledger.available - len(ledger.pool)) * ledger.page_size,
            ),
        }

    def _slots(self) -> dict[str, tuple[str, float]]:
        registry = self.scheduler.adapters
        if not isinstance(registry, Registry):
            return {}
        return {
            "lora_pool_slots_used": ("Slots in which an adapter stands.", registry.slots_used),
            "lora_pool_slots_total": ("Adapters that can compute together.", registry.plan.slots),
            "lora_pool_utilization": ("Used slots as a share.", registry.utilization),
        }

    def _counters(self) -> dict[str, tuple[str, float]]:
        counts = self.scheduler.counts
        return {
            "prompt_tokens": ("Prompt tokens of admitted requests.", counts.prompt_tokens),
            "generation_tokens": ("Tokens generated.", counts.generated_tokens),
            "cached_tokens": ("Prompt tokens found in the prefix cache.", counts.cached_tokens),
            "computed_tokens": ("Positions computed, recomputed ones included.", counts.computed_tokens),
            "num_requests": ("Requests that ended.", self.ended.total()),
            "num_aborted_requests": ("Requests that were aborted or failed.", self.ended["abort"]),
            "num_retracted_requests": ("Times a running request went back to the queue.", counts.preemptions),
            "scheduler_steps": ("Steps planned.", counts.steps),
        }

    def _histograms(self) -> dict[str, tuple[str, Histogram]]:
        return {
            "time_to_first_token_seconds": ("From arrival to the first token.", self.ttft),
            "inter_token_latency_seconds": ("Between tokens of a request.", self.itl),
            "e2e_request_latency_seconds": ("From arrival to the end.", self.e2e),
            "queue_time_seconds": ("From arrival to the first step.", self.queue_time),
            "prompt_tokens_histogram": ("Prompt length.", self.prompt_lengths),
            "generation_tokens_histogram": ("Output length.", self.output_lengths),
        }


def _names(requests: Iterable[Request]) -> str:
    """Of the adapters of requests, each once."""
    return ",".join(sorted({each.adapter.name for each in requests if isinstance(each.adapter, Adapter)}))
