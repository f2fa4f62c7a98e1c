"""A roofline of a result: python benchmarks/peers/plot.py RESULT.json PICTURE.png

The roof is what the machine gave in that run: the fastest read and the best rate of a product of matrices. A point is
the median of a peer in a workload, computed from tokens per second and what a token of this model takes: each step
reads all weights once and every user's keys and values, and multiplies each token with each weight.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from table import values

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, MIDDLE, VOCABULARY = 28, 1024, 16, 8, 128, 3072, 151_936
LINEARS = LAYERS * HIDDEN * (2 * HEADS * HEAD + 2 * KV_HEADS * HEAD + 3 * MIDDLE)
HEAD_WEIGHTS = HIDDEN * VOCABULARY
KV_BYTES = LAYERS * 2 * KV_HEADS * HEAD * 2  # of one token, 16 bits a number
ATTENTION = LAYERS * 4 * HEADS * HEAD  # operations of one token for each token before it
WEIGHT_BYTES = {"bf16": 2.0, "8-bit": 1.0}


@dataclass(frozen=True)
class Point:
    """Operations per byte, and 10^9 operations per second."""

    label: str
    peer: str
    intensity: float
    gflops: float

    @property
    def gb_s(self) -> float:
        return self.gflops / self.intensity


def cost(workload: dict[str, Any], weight_bytes: float) -> tuple[float, float]:
    """Operations and bytes of one token of a workload that is all prefill or all decoding."""
    if workload["metric"] == "prefill_tok_s":
        tokens = workload["own"]
        operations = 2 * LINEARS + ATTENTION * tokens / 2 + 2 * HEAD_WEIGHTS / tokens
        return operations, (LINEARS + HEAD_WEIGHTS) * weight_bytes / tokens + KV_BYTES
    context = workload["own"] + workload["new"] / 2
    weights = LINEARS + HEAD_WEIGHTS
    return 2 * weights + ATTENTION * context, weights * weight_bytes / workload["users"] + KV_BYTES * context


def points(result: dict[str, Any], precision: str) -> list[Point]:
    samples = [s for s in result["samples"] if s["precision"] == precision]
    found = []
    for workload in result["workloads"]:
        if workload["shared"] or workload["turns"] > 1:
            continue
        operations, size = cost(workload, WEIGHT_BYTES[precision])
        for peer in result["peers"][precision]:
            if rates := values(samples, workload["name"], peer, workload["metric"]):
                rate = statistics.median(rates.values())
                found.append(Point(workload["name"], peer, operations / size, rate * operations / 1e9))
    return found


def roof(result: dict[str, Any]) -> tuple[float, float]:
    """GFLOP/s and GB/s: the best of what was measured at the start and beside the samples."""
    looks = [s["sentinel"] for s in result["samples"]]
    start = result["ceilings"].items()
    gemm = [v for k, v in start if k.startswith("gemm")] + [look["gemm_gflops"] for look in looks]
    read = [v for k, v in start if k.startswith("read")] + [look["read_gb_s"] for look in looks]
    return max(gemm), max(read)


def draw(result: dict[str, Any], precision: str, axes: plt.Axes) -> None:
    gemm, read = roof(result)
    drawn = points(result, precision)
    line = [0.5, gemm / read, max(2000.0, *(2 * p.intensity for p in drawn))]
    axes.loglog(line, [min(gemm, read * x) for x in line], color="black", label=f"{read:.0f} GB/s, {gemm:.0f} GFLOP/s")
    axes.set_ylim(1, 2 * gemm)
    for peer, marker in zip(result["peers"][precision], "o^sDvPX", strict=False):
        mine = [p for p in drawn if p.peer == peer]
        axes.loglog([p.intensity for p in mine], [p.gflops for p in mine], marker, label=peer, alpha=0.8)
    for label, intensity in {p.label: p.intensity for p in drawn}.items():
        axes.axvline(intensity, color="0.85", zorder=0)
        axes.text(intensity, 1, f" {label}", rotation=90, va="bottom", ha="right", fontsize=7)
    axes.set(title=precision, xlabel="operations per byte", ylabel="10⁹ operations per second")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def reached(result: dict[str, Any], precision: str) -> str:
    """Every point as shares of the roof."""
    gemm, read = roof(result)
    lines = ["| workload | peer | GFLOP/s | of the best product | GB/s | of the read |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {p.label} | {p.peer} | {p.gflops:.0f} | {p.gflops / gemm:.0%} | {p.gb_s:.1f} | {p.gb_s / read:.0%} |"
        for p in points(result, precision)
    ]
    return "\n".join(lines)


def main(source: Path, picture: Path) -> None:
    result = json.loads(source.read_text())
    figure, panels = plt.subplots(1, len(result["peers"]), figsize=(6 * len(result["peers"]), 4.6), squeeze=False)
    for precision, axes in zip(result["peers"], panels[0], strict=True):
        draw(result, precision, axes)
        print(f"{precision}\n\n{reached(result, precision)}\n")
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
