"""What only a GPU can tell: are the kernels right there, how fast, and are a request's bits its own?

    PYTHONPATH=src python scripts/gpu_check --part kernels
    PYTHONPATH=src python scripts/gpu_check --part determinism
    PYTHONPATH=src python scripts/gpu_check --part decode
    PYTHONPATH=src python scripts/gpu_check --part prefill
    PYTHONPATH=src python scripts/gpu_check --part serving
    PYTHONPATH=src python scripts/gpu_check --part peers
    PYTHONPATH=src python scripts/gpu_check --part tune

Each part takes under ten minutes on a fresh machine, prints one table last, and puts its rows into
`benchmarks/results/<gpu>-<date>.json`, beside those of the other parts. All but `serving` and `peers` need torch,
Triton and numpy and nothing of the server; what those two need besides is in README.md here.

`--device cpu` with TRITON_INTERPRET=1 and `--size tiny` runs the same code in Triton's interpreter; its times mean
nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import torch

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PARTS = ("kernels", "determinism", "decode", "prefill", "serving", "peers", "tune")


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks on a GPU.")
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        print("torch finds no CUDA device here", file=sys.stderr)
        return 2
    rows = import_module(given.part + "_part").run(torch.device(given.device), given.size == "tiny")
    save(given.results, given.device, given.part, rows)
    print(table(rows))
    return 0 if all(row.get("right", True) for row in rows) else 1


def save(folder: Path, device: str, part: str, rows: list[dict[str, object]]) -> None:
    """Merge into today's file of this device."""
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = folder / f"{slug}-{datetime.date.today().isoformat()}.json"
    folder.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {"device": name, "torch": torch.__version__}
    known[part] = rows
    path.write_text(json.dumps(known, indent=1) + "\n")


def table(rows: list[dict[str, object]]) -> str:
    """Columns as wide as what is in them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
