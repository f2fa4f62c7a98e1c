"""What the engine counts, and how the ends of requests are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_config import CONFIG, GIB
from world import World, submit

from ramify.config.machine import Machine
from ramify.config.model import parse_config
from ramify.config.read import overlay
from ramify.config.resolve import resolve
from ramify.config.settings import Settings
from ramify.core.finish import Finish
from ramify.engine.meter import EngineMeter
from ramify.wire.messages import Abort


class Metered(World):
    """A world whose clock moves a second with each step."""

    def __init__(self, log_interval: float = 5.0, **more: Any) -> None:
        super().__init__(**more)
        settings = overlay(Settings(), {"log_interval": log_interval}, "test")
        resolved = resolve(settings, parse_config(CONFIG), Path("/m"), Machine(16 * GIB, 8, False))
        self.now = 0.0
        self.meter = EngineMeter(resolved, lambda: self.now)
        self.meter.watch(self.scheduler)
        self.scheduler.observer = self.loop._meter = self.meter

    def step(self) -> None:
        self.now += 1.0
        super().step()

    def value(self, name: str, **labels: str) -> float:
        families = list(text_string_to_metric_families(self.meter.exposition()))
        found = [
            s for f in families for s in f.samples if s.name == f"ramify:{name}" and labels.items() <= s.labels.items()
        ]
        return sum(sample.value for sample in found)


@pytest.mark.parametrize("keep", [0, 4])
def test_an_end_by_text_is_a_stop_and_no_abort(keep: int) -> None:
    world = Metered(depth=1)
    world.send(submit("a", [1, 2, 3], 40, params={"stop": "x", "ignore_eos": True}))
    while len(world.outcomes["a"].tokens) < 6:
        world.step()
    world.send(Abort("a", keep=keep, finish=Finish.stop("x")))
    world.drain()
    assert world.value("finished_requests_total", finish_reason="stop") == 1
    assert world.value("num_aborted_requests_total") == 0
    assert world.value("generation_tokens_histogram_sum") == keep


def test_a_request_that_was_given_up_is_an_abort() -> None:
    world = Metered(depth=1)
    world.send(submit("a", [1, 2, 3], 40, params={"stop": "x"}), submit("b", [1, 2, 3], 40))
    world.step()
    world.send(Abort("a"), Abort("b", keep=0))
    world.drain()
    assert world.value("finished_requests_total", finish_reason="abort") == 2
    assert world.value("num_aborted_requests_total") == 2


@pytest.mark.parametrize("log_interval", [0.0, 5.0])
def test_rates_are_there_whether_or_not_they_are_logged(log_interval: float, caplog: pytest.LogCaptureFixture) -> None:
    world = Metered(log_interval)
    caplog.set_level("INFO", "ramify.engine.meter")
    world.send(submit("a", [1, 2, 3, 4], 1))
    world.drain()
    world.send(submit("b", [1, 2, 3, 4], 60, params={"ignore_eos": True}))
    for _ in range(30):
        world.step()
    assert world.value("gen_throughput") == pytest.approx(1.0, rel=0.3)
    assert world.value("cache_hit_rate") > 0
    assert bool(caplog.records) == bool(log_interval)
