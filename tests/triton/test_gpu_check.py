"""`scripts/gpu_check` runs: on a GPU it is too late to find out that it does not. Tiny, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]

# Of what the package needs, a machine that is lent for its GPU may have only some; parts that run the engine say so.
ABSENT = ("msgspec", "zmq", "re2", "llguidance", "starlette", "uvicorn")
HTTP = ("zmq", "starlette", "uvicorn")
RUN = """
import runpy, sys
absent = sys.argv.pop(1).split(",")
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0])
runpy.run_path(sys.argv[0] + "/__main__.py", run_name="__main__")
"""


def ran(part: str, folder: Path, absent: tuple[str, ...] = ABSENT) -> list[dict[str, Any]]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src")}
    arguments = ["--part", part, "--device", "cpu", "--size", "tiny", "--results", str(folder)]
    command = [sys.executable, "-c", RUN, ",".join(absent), str(ROOT / "scripts/gpu_check"), *arguments]
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


def test_serving(tmp_path: Path) -> None:
    off, on, *steps = ran("serving", tmp_path, HTTP)
    assert (off["how"], on["how"]) == ("cache off", "cache on")
    assert len(steps) == 4
    assert all(row["tokens/s"] > 0 and row["host ms a step"] > 0 for row in steps)


def test_peers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    rows = {(row["who"], row["users"]): row for row in ran("peers", tmp_path, HTTP)}
    assert {who for who, _ in rows} == {
        "ramify",
        "transformers generate",
        "transformers generate_batch",
        "plain loop, a graph",
    }
    assert all("failed" not in row for (who, _), row in rows.items() if who != "transformers generate_batch")
    assert rows["plain loop, a graph", 1]["bar"]


def part(name: str) -> Any:
    """A module of the script, for what needs no GPU to be right."""
    folder = str(ROOT / "scripts/gpu_check")
    sys.path.insert(0, folder)
    try:
        return import_module(name)
    finally:
        sys.path.remove(folder)


def test_gaps() -> None:
    """Kernels overlap, and stand within others; what is between them counts once."""
    idle_share = part("serving_part").idle_share
    assert idle_share([]) is None
    assert idle_share([(0, 10)]) == 0
    assert idle_share([(20, 30), (0, 10), (2, 4), (5, 12)]) == pytest.approx(8 / 30)
    assert idle_share([(0, 10), (10, 20)]) == 0


def test_bars() -> None:
    judged = part("decode_part").judged
    rows = [
        {"model": "8B", "linears": "cuBLAS", "users": 1, "captured ms": 5.0, "of floor": 0.86},
        {"model": "8B", "linears": "cuBLAS", "users": 64, "captured ms": 9.0, "of floor": 0.7},
        {"model": "8B", "linears": "fp8", "users": 1, "captured ms": 3.0, "of floor": 0.7},
        {"model": "0.6B", "linears": "cuBLAS", "users": 1, "captured ms": 1.0, "of floor": 0.1},
    ]
    assert [row.get("bar") for row in judged(rows)] == ["met (0.85)", "missed (0.75)", "met (1.6)", None]
    compared = part("peers_part").compared
    found = compared(
        [
            {"who": "ramify", "users": 64, "tokens/s": 1000.0},
            {"who": "ramify", "users": 1, "tokens/s": 90.0},
            {"who": "transformers generate", "users": 64, "tokens/s": 190.0},
            {"who": "transformers generate_batch", "users": 64, "failed": "it did"},
            {"who": "plain loop, a graph", "users": 1, "tokens/s": 100.0},
        ]
    )
    assert [row.get("bar") for row in found] == [None, None, "met (5)", None, "missed (1)"]
