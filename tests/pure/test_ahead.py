"""What is read ahead of its use."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ramify.weights import ahead


def files(folder: Path, *sizes: int) -> set[Path]:
    made = {folder / f"{number}.safetensors": size for number, size in enumerate(sizes)}
    for file, size in made.items():
        file.write_bytes(b"x" * size)
    return set(made)


def test_every_byte_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(ahead, "PIECE", 100)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *rest: asked.append(rest))
    thread = ahead.fetch(files(tmp_path, 250, 100, 0))
    assert thread is not None
    thread.join(10)
    assert [first for first, _, _ in asked] == [0, 100, 200, 0]
    assert {(size, advice) for _, size, advice in asked} == {(100, os.POSIX_FADV_WILLNEED)}


def test_not_what_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert ahead.fetch(files(tmp_path, 600)) is None
    assert ahead.fetch(files(tmp_path, 400)) is not None
