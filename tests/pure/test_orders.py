"""What the engine holds for everybody: logging, profiles, speed; and orders that wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlled import Controlled, resolved
from world import submit

from ramify.config.settings import names
from ramify.core.errors import StartupError
from ramify.engine import control as module
from ramify.engine.control import logging_of
from ramify.engine.loop import NoController
from ramify.engine.profile import MAX_STEPS, NoProfiler, TraceFolder
from ramify.wire.messages import Control, FreezeGC, Logging


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Controlled:
    monkeypatch.setattr(module.logs, "set_level", lambda level: None)
    return Controlled()


def test_logging_is_told_to_everybody_and_to_who_comes_later(world: Controlled) -> None:
    world.order("configure_logging", requests=True, level=None, format="json", log_level=None)
    changed = Logging("info", True, 2, "json")
    assert world.told == [changed]
    world.order("configure_logging", requests=None, level=0, format=None, log_level="debug")
    assert world.told[1] == Logging("debug", True, 0, "json")
    world.order("adopt")
    assert world.told[2] == world.told[1]


def test_logging_begins_as_the_settings_say() -> None:
    made = resolved(log_requests=True, log_requests_level="1", log_requests_format="json", log_level="warning")
    assert logging_of(made) == Logging("warning", True, 1, "json")
    assert logging_of(resolved()) == Logging()
    with pytest.raises(StartupError, match="log_requests_level"):
        resolved(log_requests_level=4)
    assert {"log_requests", "log_requests_level", "log_requests_format", "profile_dir"} <= names().keys()


def test_a_frozen_heap_is_everybodys(world: Controlled) -> None:
    world.order("freeze_gc")
    assert world.told == [FreezeGC()]


def test_slowness_is_per_step(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    world.order("slow_down", seconds=0.5)
    assert slept == []  # an idle loop has no steps
    world.loop.depth = 1
    world.send(submit("r", [1, 2], 3, params={"ignore_eos": True}))
    world.drain()
    assert set(slept) == {0.5}
    world.order("slow_down", seconds=None)
    slept.clear()
    world.send(submit("s", [1, 2], 3))
    world.drain()
    assert slept == []


def test_looking_whether_it_is_alive_does_not_count_pages(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[bool] = []
    prove = world.ledger.check
    monkeypatch.setattr(world.ledger, "check", lambda: [proved.append(True), prove()][1])
    world.prove = False
    world.send(submit("r", [1, 2], 3))
    world.drain()
    for ticket in range(6):
        world.client.send(Control(100 + ticket, 0, ("ping", "metrics")[ticket % 2]))
        world.loop._stuck = True
        world.loop.take_messages()
    assert len(proved) == 2  # one by `drain`, one by the loop at idle


def test_an_order_that_nobody_knows(world: Controlled) -> None:
    assert "knows no order 'x'" in world.refused("x")


def test_profiles_are_answered_when_they_are_there(world: Controlled) -> None:
    start = world.send_order("start_profile", num_steps=3)
    world.step()
    assert start not in world.answers
    world.profiler.started.set_result(None)
    world.step()
    assert world.answers[start].error is None
    asked = world.profiler.asked[0]
    assert (asked.steps, asked.first, asked.stack, asked.shapes) == (3, 0, True, False)
    stop = world.send_order("stop_profile")
    world.step()
    assert 0 < (world.control.patience() or 0) < 1  # it comes by itself
    world.profiler.stopped.set_exception(OSError("no space"))
    world.step()
    assert "no space" in (world.answers[stop].error or "")
    assert world.control.patience() is None


def test_a_profile_that_cannot_start(world: Controlled) -> None:
    world.profiler.started.set_exception(ValueError("Profiling is already in progress."))
    assert "already in progress" in world.refused("start_profile")


def test_traces_stay_in_the_folder(tmp_path: Path) -> None:
    folder = TraceFolder(str(tmp_path / "traces"))
    made = folder.profile({})
    assert Path(made.path).parent == tmp_path / "traces"
    assert made.steps == MAX_STEPS
    inner = folder.profile({"output_dir": "a/b", "profile_id": "id", "profile_prefix": "p", "num_steps": 2})
    assert Path(inner.path).parent == tmp_path / "traces" / "a" / "b"
    assert Path(inner.path).name.startswith("p-id-")
    assert folder.profile({"output_dir": str(tmp_path / "traces" / "c")})
    (tmp_path / "traces" / "link").symlink_to(tmp_path)
    for outside in ("..", "a/../..", "/", str(tmp_path), "link", "a\0b"):
        with pytest.raises(ValueError):
            folder.profile({"output_dir": outside})
    with pytest.raises(ValueError, match="num_steps"):
        folder.profile({"num_steps": MAX_STEPS + 1})
    paths = {folder.profile({"profile_id": "same"}).path for _ in range(5)}
    assert len(paths) == 5


def test_without_a_folder_of_its_own_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = TraceFolder(None)
    assert list(tmp_path.iterdir()) == []
    path = Path(made.profile({}).path).parent
    assert path.parent == tmp_path
    assert path.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"):
        TraceFolder(str(tmp_path / "file")).profile({})


def test_where_nothing_is_controlled(world: Controlled) -> None:
    with pytest.raises(ValueError):
        NoProfiler().stop()
    world.loop._control = NoController()
    world.send(submit("r", [1, 2], 2))
    world.drain()
    assert world.outcomes["r"].finish is not None


def test_loads_add_up(world: Controlled) -> None:
    for number in range(10):
        world.send(submit(f"r{number}", [number + 1] * 8, 30, params={"ignore_eos": True}))
    for _ in range(4):
        world.step()
    core = world.order("loads")["core"]
    assert (core["num_running_reqs"], core["num_waiting_reqs"]) == (8, 2)
    assert core["num_waiting_uncached_tokens"] == 16
    assert core["num_total_tokens"] == core["num_used_tokens"] + 16
    assert core["num_used_tokens"] >= 64
    assert core["max_total_num_tokens"] == 4096
    world.drain()
    assert world.order("loads")["core"]["num_used_tokens"] == 0
