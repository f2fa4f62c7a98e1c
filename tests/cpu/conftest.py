import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that tests share

from emulated import emulated, possible, there

from ramify.ops.cpu.library import SETS, load


@pytest.fixture(params=[pytest.param(name, marks=() if there(name) else pytest.mark.slow) for name in SETS])
def library(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    """Held to each instruction set in turn. Those that the machine lacks are emulated, in slow tests."""
    if there(request.param):
        made = load()
        assert made is not None
    elif possible():
        made = emulated(request.param)
    else:
        pytest.skip(f"this machine has no {request.param}, and no SIMDe (libsimde-dev) to emulate it with")
    best = made.ramify_isa()
    assert made.ramify_choose(request.param.encode()).decode() == request.param
    made.ramify_threads(2)
    yield made
    made.ramify_choose(best)
