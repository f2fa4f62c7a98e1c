import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `server`

from server import Server, running, slow_model

from assets import shared


@pytest.fixture(scope="session")
def stories() -> Iterator[Server]:
    """A small trained model that tells stories; a base model, without a chat template."""
    with running(str(shared("weights/TinyStories-656K")), "--served-model-name", "stories") as server:
        yield server


@pytest.fixture(scope="session")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_model(tmp_path_factory.mktemp("slow") / "model", shared("weights/TinyStories-656K"))


@pytest.fixture
def slow(slow_folder: Path) -> Iterator[Server]:
    """A model whose long answers take long; one request at a time."""
    arguments = ("--load-format", "dummy", "--max-running-requests", "1", "--max-queued-requests", "2")
    with running(str(slow_folder), *arguments, "--drain-timeout", "2") as server:
        yield server
