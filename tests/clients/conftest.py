"""Servers that the clients talk to. A client may have an environment of its own, see `make test-clients`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))  # for `server` and `recital`

from recital import reciter
from scripts import SCRIPTS
from server import Server, running


@pytest.fixture(scope="session")
def concierge() -> Iterator[Server]:
    """The bundled model."""
    with running("--threads", "1", "--enable-cache-report") as server:
        yield server


@pytest.fixture(scope="session")
def recital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that answers by `SCRIPTS`, to the letter."""
    folder = reciter(tmp_path_factory.mktemp("recital") / "model", SCRIPTS)
    flags = ("--tool-call-parser", "hermes", "--reasoning-parser", "qwen3", "--served-model-name", "recital")
    with running(str(folder), *flags, "--threads", "1") as server:
        yield server
