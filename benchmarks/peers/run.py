"""Ramify beside what one would use instead, on one model, interleaved: python benchmarks/peers/run.py

Needs what `make bench-peers` makes in `build/peers`: the model in every peer's format, and an environment for each. All
peers of a precision are loaded at once, and stopped (SIGSTOP) while another is measured. In every round every workload
is played by every peer, forwards and backwards in turn, with a look at the machine beside each sample. After the first
`--heats` rounds a peer that is far behind the best in a column plays no more there: its samples stand, and the time
goes into pairs of ramify and whoever is near the best. Results are written after every round.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from child import Child, DidNotFinish
from sentinel import Sentinel, ceilings
from table import OURS, best_peer, markdown, values
from workloads import SIZES, Workload, measures, play, workloads

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / "build/peers"
LOAD_LIMIT = 600.0  # seconds; vLLM compiles
WARM_UP = {"prompts": [list(range(32)), list(range(32, 64))], "new": 4}


@dataclass(frozen=True)
class Spec:
    """How a peer is started. `home` is its environment, None for ramify's own."""

    name: str
    home: str | None
    worker: str
    arguments: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        python = HOME / self.home / "bin/python" if self.home else Path(sys.executable)
        return [str(python), str(HERE / f"worker_{self.worker}.py"), *self.arguments]


def specs(threads: int, settings: list[str]) -> dict[str, list[Spec]]:
    """The field of each precision."""
    model = str(HOME / "model")
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    vllm = {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": cores, "HF_HUB_OFFLINE": "1"}
    vllm |= {"LD_PRELOAD": str(HOME / "vllm/lib/libiomp5.so")}
    return {
        "bf16": [
            Spec(OURS, None, "ramify", (model, *settings)),
            Spec("llama.cpp", "llama", "llama", (str(HOME / "bf16.gguf"),)),
            Spec("openvino", "openvino", "openvino", (str(HOME / "openvino-fp16"),)),
            Spec("vllm", "vllm", "vllm", (model, "bfloat16"), vllm),
            Spec("vllm-fp32", "vllm", "vllm", (model, "float32"), vllm),
            Spec("transformers", None, "transformers", (model, "bfloat16")),
            Spec("transformers-fp32", None, "transformers", (model, "float32")),
        ],
        "8-bit": [
            Spec(OURS, None, "ramify", (model, "quantization=w8a8", *settings)),
            Spec("llama.cpp", "llama", "llama", (str(HOME / "q8_0.gguf"),)),
            Spec("openvino", "openvino", "openvino", (str(HOME / "openvino-int8"),)),
        ],
    }


class Field:
    """The peers of one precision. One that misses a limit is killed, and loaded again for its next workload."""

    def __init__(self, precision: str, chosen: list[Spec], limit: float) -> None:
        self.precision, self.limit = precision, limit
        self.specs = {spec.name: spec for spec in chosen}
        self.children: dict[str, Child] = {}
        self.about: dict[str, dict[str, Any]] = {}
        for name in list(self.specs):
            self._load_first(name)

    def _load_first(self, name: str) -> None:
        try:
            child = self._load(name)
        except DidNotFinish as e:
            self.about[name] = {"failed": f"did not load: {e}"}
            del self.specs[name]
        else:
            self.about[name] = {"versions": child.versions, "load_seconds": child.load_seconds}
        say(f"{self.precision} {name}: {self.about[name]}")

    def _load(self, name: str) -> Child:
        spec = self.specs[name]
        with (HOME / f"{name}-{self.precision}.log").open("w") as log:
            child = Child(spec.command(), log, LOAD_LIMIT, spec.env)
        self.children[name] = child
        child.ask(LOAD_LIMIT, prepare={"users": 2, "context": 256})
        child.ask(LOAD_LIMIT, run=WARM_UP)
        child.pause()
        return child

    def play(self, name: str, workload: Workload, round: int) -> dict[str, Any]:
        """A sample: what was measured, or how it failed."""
        try:
            child = self.children.get(name) or self._load(name)
            child.ask(self.limit, prepare={"users": workload.users, "context": workload.context})
            until = time.monotonic() + self.limit

            def ask(prompts: list[list[int]], new: int) -> Any:
                return child.ask(max(0.0, until - time.monotonic()), run={"prompts": prompts, "new": new})

            answers = play(workload, round, ask)
        except (DidNotFinish, ValueError) as e:
            self._drop(name)
            return {"failed": str(e)}
        child.pause()
        self.about[name]["pss_gib"] = max(self.about[name].get("pss_gib", 0.0), child.memory() / 2**30)
        return {**measures(workload, answers), "first_ids": [ids[0] for ids in answers[0]["ids"]]}

    def _drop(self, name: str) -> None:
        if child := self.children.pop(name, None):
            child.kill()

    def close(self) -> None:
        for name in list(self.children):
            self._drop(name)


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in cpu.items()}
    wanted = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "flags": [flag for flag in wanted if flag in cpu.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        threads = len(os.sched_getaffinity(0))
        self.specs = specs(threads, options.ramify)
        self.workloads = [w for w in workloads(options.size) if w.name in options.workloads]
        self.result: dict[str, Any] = {
            "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
            "machine": machine(),
            "ceilings": ceilings(threads),
            "options": {key: str(value) for key, value in vars(options).items() if key != "out"},
            "workloads": [{**vars(workload)} for workload in self.workloads],
            "peers": {},
            "samples": [],
        }
        self.sentinel = Sentinel(threads)
        if options.resume:
            self._resume(json.loads(options.out.with_suffix(".json").read_text()))

    def _resume(self, before: dict[str, Any]) -> None:
        """Samples stand; what they were measured with is said beside what goes on."""
        self.result["samples"], self.result["peers"] = before["samples"], before["peers"]
        self.result["ceilings"] = {
            name: max(value, before["ceilings"].get(name, value)) for name, value in self.result["ceilings"].items()
        }
        self.result["earlier"] = [*before.get("earlier", []), {key: before[key] for key in ("date", "options")}]

    def run(self) -> None:
        left = self.options.minutes * 60
        for number, precision in enumerate(self.options.precision):
            begin = time.monotonic()
            self.precision(precision, begin + left / (len(self.options.precision) - number))
            left -= time.monotonic() - begin

    def precision(self, precision: str, until: float) -> None:
        """Rounds until all are played or the time is over. A round that has begun is played to its end."""
        chosen = [s for s in self.specs[precision] if s.name in (OURS, *self.options.peers)]
        with contextlib.closing(Field(precision, chosen, self.options.limit)) as peers:
            self.result["peers"].setdefault(precision, {}).update(peers.about)
            played = [s["round"] for s in self.result["samples"] if s["precision"] == precision]
            for round in range(max(played, default=-1) + 1, self.options.rounds):
                if time.monotonic() > until:
                    say(f"{precision}: out of time after {round} rounds")
                    break
                self.round(peers, round)
                self.write()
                time.sleep(self.options.rest)

    def round(self, peers: Field, round: int) -> None:
        for workload in self.workloads:
            for name in list(self.playing(peers, workload, round)):
                looked = self.sentinel.look()
                sample = peers.play(name, workload, round)
                key = {"precision": peers.precision, "round": round, "workload": workload.name, "peer": name}
                self.result["samples"].append({**key, **sample, "sentinel": looked})
                shown = sample.get("failed") or f"{sample[workload.metric]:.1f} tok/s in {sample['seconds']:.1f} s"
                say(f"{peers.precision} {round} {workload.name} {name}: {shown}")

    def playing(self, peers: Field, workload: Workload, round: int) -> Iterator[str]:
        """Whoever is not out of this column, in this round's order."""
        samples = [s for s in self.result["samples"] if s["precision"] == peers.precision]
        rates = {name: values(samples, workload.name, name, workload.metric) for name in peers.specs}
        best = best_peer(samples, workload.name, workload.metric)
        for name in reversed(peers.specs) if round % 2 else peers.specs:
            played = [s for s in samples if (s["peer"], s["workload"]) == (name, workload.name)]
            failed = bool(played) and not rates[name]
            usual = statistics.median(rates[name].values()) if rates[name] else None
            slow = best is not None and usual is not None and usual < self.options.far * best[1]
            if not failed and (name == OURS or round < self.options.heats or not slow):
                yield name

    def write(self) -> None:
        out = self.options.out
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(self.result, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(self.result))


def usual_peers() -> list[str]:
    """Without instructions for bfloat16 torch is much faster in float32, which holds the same weights."""
    fast = {"avx512_bf16", "amx_bf16"} & set(machine()["flags"])
    return ["llama.cpp", "openvino", *(["vllm", "transformers"] if fast else ["vllm-fp32", "transformers-fp32"])]


def arguments() -> argparse.Namespace:
    names = [workload.name for workload in workloads("full")]
    peers = ["llama.cpp", "openvino", "vllm", "vllm-fp32", "transformers", "transformers-fp32"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--heats", type=int, default=1, help="rounds that everyone plays")
    parser.add_argument("--far", type=float, default=0.7, help="of the best peer's rate: less is far behind")
    parser.add_argument("--rest", type=float, default=0, help="seconds after a round, for other work")
    parser.add_argument("--minutes", type=float, default=40, help="no round begins later, in all precisions together")
    parser.add_argument("--limit", type=float, default=240, help="seconds for one peer and workload")
    parser.add_argument("--workloads", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--peers", nargs="*", choices=peers, default=usual_peers(), metavar="NAME", help=", ".join(peers)
    )
    parser.add_argument("--precision", nargs="+", choices=["bf16", "8-bit"], default=["bf16"])
    parser.add_argument("--size", choices=SIZES, default="default", help="full: 128 tokens in and out for each user")
    parser.add_argument("--resume", action="store_true", help="go on with the rounds of `--out`")
    parser.add_argument("--quick", action="store_true", help="one round of a few tokens: does everything run?")
    parser.add_argument("--ramify", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of ramify.Engine")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results/peers", help="files .json and .md")
    options = parser.parse_args()
    if options.quick:
        options.size, options.rounds, options.out = "quick", 1, HOME / "quick"
    return options


if __name__ == "__main__":
    bench = Bench(arguments())
    bench.run()
    print(markdown(bench.result))
