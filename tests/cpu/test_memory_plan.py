"""The plan against what is free once a model is loaded: on a stand-in for a device that takes its pool at once."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from harness import MACHINE

from assets import BUNDLED
from ramify.config.memory import MIB
from ramify.config.model import read_config
from ramify.config.read import overlay
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.engine.assemble import assemble, make_runner
from ramify.ops import platform as platforms
from ramify.ops.platform import CpuPlatform
from ramify.wire.channel import inproc


def decided(**asked: object) -> Resolved:
    settings = overlay(Settings(), {"load_format": "dummy", "context_length": 256, **asked}, "test")
    resolved = resolve(settings, read_config(BUNDLED), BUNDLED, MACHINE)
    return replace(resolved, memory=replace(resolved.memory, at_once=True))


class Device(CpuPlatform):
    """Says that so many bytes are free."""

    free = 0

    def free_bytes(self) -> int:
        return self.free


def device(resolved: Resolved, free: int) -> Device:
    made = Device(1, resolved.dtype, resolved.linears)
    made.free = free
    return made


def needed(resolved: Resolved) -> int:
    return resolved.memory.pool + resolved.memory.activations + resolved.memory.process


def test_what_fits_is_as_planned() -> None:
    resolved = decided()
    (pool,) = make_runner(resolved, device(resolved, needed(resolved))).pool.pools
    assert pool.nowhere - 1 == resolved.pages


def test_the_pool_shrinks_and_the_scheduler_knows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolved = decided()
    made = device(resolved, needed(resolved) - resolved.memory.process // 2 - resolved.memory.pool // 2)
    monkeypatch.setattr(platforms, "make_platform", lambda *_: made)
    with caplog.at_level(logging.WARNING):
        loop = assemble(resolved, inproc()[0])
    try:
        (pool,) = loop.executor.runner.pool.pools
        assert loop.scheduler.ledger.total == pool.nowhere - 1 < resolved.pages
        assert loop.scheduler.ledger.total == pytest.approx(resolved.pages / 2, abs=2)
    finally:
        loop.close()
    assert "planned" in caplog.text


def test_too_little_is_refused_with_the_plan() -> None:
    resolved = decided()
    with pytest.raises(StartupError, match=r"(?s)after loading .* are free.*weights.*KV cache"):
        make_runner(resolved, device(resolved, MIB))
    exact = decided(max_total_tokens=1024)
    with pytest.raises(StartupError, match="after loading"):
        make_runner(exact, device(exact, exact.memory.activations + exact.memory.process // 2))


def test_an_allocation_that_fails_is_a_startup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    monkeypatch.setattr("ramify.memory.kv.KVPool.__init__", fail)
    resolved = decided()
    with pytest.raises(StartupError, match=r"(?s)no memory left while .*KV cache") as caught:
        make_runner(resolved, device(resolved, needed(resolved)))
    assert "--mem-fraction-static" in caught.value.remedy
