"""Results as Markdown: python benchmarks/peers/table.py RESULT.json"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

OURS = "ramify"
Samples = list[dict[str, Any]]


def values(samples: Samples, workload: str, peer: str, metric: str) -> dict[int, float]:
    """By round; rounds that failed are not in it."""
    return {s["round"]: s[metric] for s in samples if (s["workload"], s["peer"]) == (workload, peer) and metric in s}


def best_peer(samples: Samples, workload: str, metric: str) -> tuple[str, float] | None:
    """The peer other than ramify with the highest median, and that median."""
    names = {s["peer"] for s in samples} - {OURS}
    medians = {n: statistics.median(v.values()) for n in names if (v := values(samples, workload, n, metric))}
    return max(medians.items(), key=lambda item: item[1], default=None)


def spread(numbers: list[float], digits: int = 1) -> str:
    low, high = min(numbers), max(numbers)
    return f"{statistics.median(numbers):.{digits}f} [{low:.{digits}f}–{high:.{digits}f}] ×{len(numbers)}"


def cell(samples: Samples, workload: dict[str, Any], peer: str, metric: str, digits: int = 1) -> str:
    found = list(values(samples, workload["name"], peer, metric).values())
    if found:
        return spread(found, digits)
    played = [s for s in samples if (s["workload"], s["peer"]) == (workload["name"], peer)]
    return next((s["failed"] for s in played if "failed" in s), "")


def ratio(samples: Samples, workload: dict[str, Any]) -> str:
    """Ramify over the best peer, round by round."""
    name, metric = workload["name"], workload["metric"]
    best = best_peer(samples, name, metric)
    if best is None:
        return ""
    ours, theirs = values(samples, name, OURS, metric), values(samples, name, best[0], metric)
    pairs = [ours[round] / theirs[round] for round in sorted(ours.keys() & theirs.keys())]
    return f"**{spread(pairs, 2)}** {best[0]}" if pairs else ""


def agreement(samples: Samples, peer: str) -> str:
    """Requests whose first token is the one that ramify chose."""
    ours = {(s["round"], s["workload"]): s["first_ids"] for s in samples if s["peer"] == OURS and "first_ids" in s}
    same = total = 0
    for s in samples:
        if s["peer"] == peer and (s["round"], s["workload"]) in ours and "first_ids" in s:
            pairs = list(zip(s["first_ids"], ours[s["round"], s["workload"]], strict=True))
            same, total = same + sum(a == b for a, b in pairs), total + len(pairs)
    return f"{same} of {total}"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def grid(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(map(row, [head, ["---"] * len(head), *rows]))


def rates(samples: Samples, workloads: list[dict[str, Any]], peers: list[str]) -> str:
    head = ["tokens/s"] + [f"{w['name']} ({w['metric'].removesuffix('_tok_s')})" for w in workloads]
    rows = [[peer] + [cell(samples, w, peer, w["metric"]) for w in workloads] for peer in peers]
    return grid(head, [*rows, ["ramify / best peer"] + [ratio(samples, w) for w in workloads]])


def firsts(samples: Samples, workloads: list[dict[str, Any]], peers: list[str]) -> str:
    head = ["mean s to first token", *(w["name"] for w in workloads)]
    return grid(head, [[peer] + [cell(samples, w, peer, "ttft_mean", 2) for w in workloads] for peer in peers])


def people(about: dict[str, Any], samples: Samples) -> str:
    rows = []
    for name, known in about.items():
        versions = ", ".join(f"{k} {v}" for k, v in known.get("versions", {}).items()) or known.get("failed", "")
        load, memory = known.get("load_seconds"), known.get("pss_gib")
        numbers = [f"{load:.0f}" if load else "", f"{memory:.2f}" if memory else ""]
        rows.append([name, versions, *numbers, agreement(samples, name) if name != OURS else ""])
    return grid(["peer", "version", "load, s", "memory, GiB", "first tokens as ramify's"], rows)


def shapes(workloads: list[dict[str, Any]]) -> str:
    keys = ("users", "shared", "own", "new", "turns")
    return grid(["workload", *keys], [[w["name"], *(str(w[key]) for key in keys)] for w in workloads])


def markdown(result: dict[str, Any]) -> str:
    machine, ceilings = result["machine"], result["ceilings"]
    looks = [s["sentinel"] for s in result["samples"]]
    parts = [
        f"# Ramify and its peers, {result['date']}",
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), {machine['memory_gib']} GiB; "
        "Qwen3-0.6B's shape, random weights. Median [least–most] ×samples; ratios are medians of ratios of one round.",
        shapes(result["workloads"]),
    ]
    for precision, about in result["peers"].items():
        samples = [s for s in result["samples"] if s["precision"] == precision]
        peers = [name for name, known in about.items() if "versions" in known]
        parts += [f"## {precision}", rates(samples, result["workloads"], peers)]
        parts += [firsts(samples, result["workloads"], peers), people(about, samples)]
    parts += ["## The machine", "Best: " + ", ".join(f"{name} {value:.1f}" for name, value in ceilings.items()) + "."]
    if looks:
        gemm, read = [s["gemm_gflops"] for s in looks], [s["read_gb_s"] for s in looks]
        parts.append(f"Beside each sample: GEMM fp32 {spread(gemm)} GFLOP/s, read {spread(read)} GB/s.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
