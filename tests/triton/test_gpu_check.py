"""`scripts/gpu_check` runs: on a GPU it is too late to find out that it does not. Tiny, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]

# Of what the package needs, a machine that is lent for its GPU may have only some.
ABSENT = ("msgspec", "zmq", "re2", "llguidance", "starlette", "uvicorn")
RUN = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0])
runpy.run_path(sys.argv[0] + "/__main__.py", run_name="__main__")
"""


def ran(part: str, folder: Path) -> list[dict[str, Any]]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src")}
    arguments = ["--part", part, "--device", "cpu", "--size", "tiny", "--results", str(folder)]
    command = [sys.executable, "-c", RUN, str(ROOT / "scripts/gpu_check"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    (made,) = folder.iterdir()
    assert done.stdout.splitlines()[-1].strip(), "the table comes last"
    return json.loads(made.read_text())[part]


def test_kernels(tmp_path: Path) -> None:
    rows = ran("kernels", tmp_path)
    assert len(rows) > 20
    assert [row["kernel"] for row in rows if not row["right"]] == []


def test_tiles(tmp_path: Path) -> None:
    """Three of the candidates; nothing is written to the table."""
    rows = ran("tune", tmp_path)
    assert len(rows) == 7
    assert all(len(row["tile"]) == 4 for row in rows)


@pytest.mark.parametrize("part", ["determinism", "decode", "prefill"])
def test_the_other_parts(part: str, tmp_path: Path) -> None:
    """The interpreter sums products in an order of its own, so that answers may differ here."""
    assert len(ran(part, tmp_path)) >= 2
