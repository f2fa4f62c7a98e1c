"""`python -m ramify.ops.cuda.probe 0 1`: what torch knows of GPUs, as one line of JSON (`config.gpu.Said`).

A process of its own, because asking makes a context on the device, which stays as long as the process does. Whatever is
wrong is told in the answer, so that nobody has to read a traceback.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any


def ask(indices: list[int]) -> dict[str, Any]:
    """Stops at the first thing that is missing, with its words under `why`."""
    try:
        import torch
    except ImportError as e:
        return {"why": str(e)}
    said: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": _triton(), "gpus": []}
    if torch.version.cuda is None:
        return said
    try:
        torch.cuda.init()
        said["count"] = torch.cuda.device_count()
        said["gpus"] = [_look(index) for index in indices if index < said["count"]]
    except (RuntimeError, AssertionError) as e:
        said["why"] = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return said


def _triton() -> str | None:
    """Which Triton there is; importing it would take a second more."""
    if find_spec("triton") is None:
        return None
    try:
        return version("triton")
    except PackageNotFoundError:
        return "of no known version"


def _look(index: int) -> dict[str, Any]:
    import torch

    found = torch.cuda.get_device_properties(index)
    free, memory = torch.cuda.mem_get_info(index)
    capability = 10 * found.major + found.minor
    return {"index": index, "name": found.name, "capability": capability, "memory": memory, "free": free}


if __name__ == "__main__":
    print(json.dumps(ask([int(word) for word in sys.argv[1:]])))
