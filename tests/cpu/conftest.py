import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that tests share

from compiled import SETS

from ramify.ops.cpu.library import load


@pytest.fixture(params=SETS)
def library(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    made = load()
    assert made is not None
    best = made.ramify_isa()
    if made.ramify_choose(request.param.encode()).decode() != request.param:
        made.ramify_choose(best)
        pytest.skip(f"this machine has no {request.param}")
    made.ramify_threads(2)
    yield made
    made.ramify_choose(best)
