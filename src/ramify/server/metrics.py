"""What an API worker adds to the metrics of its engines: whether they are there, and one text of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from ramify.server.state import State

LABELS = ["model_name"]


def joined(texts: Sequence[str]) -> str:
    """Expositions in one: what a family is called stands once, before all that there is of it."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                known = heads.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line:
                samples.setdefault(family, []).append(line)
    return "".join(f"{line}\n" for family in heads for line in [*heads[family], *samples.get(family, ())])


def as_label(text: str) -> str:
    """The value of a label, between its quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def of_engines(states: Sequence[State]) -> str:
    """Which engines are there, as this worker sees it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Engines(states))
    return generate_latest(registry).decode()


class _Engines:
    def __init__(self, states: Sequence[State]) -> None:
        self._states = states

    def describe(self) -> list[Metric]:
        """Nothing to check for duplicates."""
        return []

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("ramify:engine_up", "Whether the model's engine takes requests.", labels=LABELS)
        starts = CounterMetricFamily("ramify:engine_starts", "Times the model's engine was started.", labels=LABELS)
        for state in self._states:
            name = [state.resolved.served_name]
            up.add_metric(name, float(state.link.usable))
            starts.add_metric(name, float(state.link.starts))
        yield up
        yield starts
