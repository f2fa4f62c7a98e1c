"""A run of `bench serve`, finished."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from ramify.bench.datasets import Workload
from ramify.bench.discover import Server
from ramify.bench.options import ServeOptions
from ramify.bench.record import Record
from ramify.bench.summary import Summary


@dataclass(frozen=True)
class Outcome:
    """All of a run: what was measured, on what, and what to know about it."""

    options: ServeOptions
    server: Server
    workload: Workload
    records: Sequence[Record]
    summary: Summary
    remarks: list[str]

    @property
    def status(self) -> int:
        """Exit status: 1 if nothing succeeded, 130 if it was stopped."""
        if self.summary.interrupted:
            return 128 + signal.SIGINT
        return 0 if self.summary.completed else 1
