"""Adapters of an engine that died are those of the next one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
from test_adapter_requests import FakeStore, plan

from ramify.adapters.registry import Registry
from ramify.config.adapters import AdapterPath
from ramify.core.errors import BadRequest
from ramify.engine.assemble import load_again
from ramify.engine.remembered import Remembered


@pytest.fixture
def made() -> Iterator[list[Registry]]:
    registries: list[Registry] = []
    yield registries
    for registry in registries:
        registry.close()


def registry_of(made: list[Registry], remembered: Remembered) -> Registry:
    registry = Registry(plan(), FakeStore())
    made.append(registry)
    load_again(registry, remembered.read() or ())
    registry.tell_changes(remembered.write)
    return registry


def load(registry: Registry, name: str, path: str = "", pinned: bool = False) -> None:
    adapter = registry.load(name, path or f"/{name}", pinned)
    wait([adapter.reading])
    registry.settled(adapter)


def test_the_next_engine_has_them(tmp_path: Path, made: list[Registry]) -> None:
    remembered = Remembered(tmp_path, 0)
    assert remembered.read() is None
    first = registry_of(made, remembered)
    assert remembered.read() == ()
    for name in ("a", "b", "c", "d", "e"):  # one more than there is memory for
        load(first, name, pinned=name == "b")
    with pytest.raises(BadRequest):
        load(first, "damaged", "bad")
    first.unload("a")
    expected = [AdapterPath(name, f"/{name}", name == "b") for name in "bcde"]
    assert list(remembered.read() or ()) == expected
    second = registry_of(made, remembered)
    assert second.paths == expected
    assert sorted(record["name"] for record in second.listed()) == ["b", "c", "d", "e"]
    assert Remembered(tmp_path, 1).read() is None


def test_what_cannot_be_read_again(tmp_path: Path, made: list[Registry], caplog: pytest.LogCaptureFixture) -> None:
    """Is said, and the others are there; a list that is damaged is none."""
    remembered = Remembered(tmp_path, 0)
    remembered.write([AdapterPath("a", "/a"), AdapterPath("x", "bad"), AdapterPath("b", "/b")])
    with caplog.at_level(logging.ERROR):
        registry = registry_of(made, remembered)
    assert registry.names == ["a", "b"]
    assert "loaded again x: x is damaged" in caplog.text
    assert remembered.read() == (AdapterPath("a", "/a"), AdapterPath("b", "/b"))
    (tmp_path / "adapters-0.json").write_text("[{")
    assert remembered.read() is None


def test_an_engine_that_dies_while_it_loads_forgets_nothing(tmp_path: Path, made: list[Registry]) -> None:
    remembered = Remembered(tmp_path, 0)
    paths = (AdapterPath("a", "/a"), AdapterPath("b", "/b"))
    remembered.write(paths)
    registry = Registry(plan(), FakeStore())
    made.append(registry)
    load_again(registry, paths[:1])
    assert remembered.read() == paths
