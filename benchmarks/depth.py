"""Overlap against none: `python benchmarks/depth.py`, and `taskset -c 0 python benchmarks/depth.py` for one core.

Two engines with the bundled model, or `--model`, take the same requests in turns: one plans a step while another
computes (depth 1), and one does not (depth 0). Ratios are of output tokens per second, 1 over 0, within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import ramify

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "tags"],
    }
)
PROMPTS = ["Once upon a time there was", "The weather today is", "A dog and a cat", "Please write a person as JSON:"]
WORKLOADS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 0.0, "ignore_eos": True},
    "sampled, penalties": {"temperature": 1.0, "top_p": 0.9, "frequency_penalty": 0.2, "ignore_eos": True},
    "json": {"temperature": 1.0, "json_schema": SCHEMA},
}


def rate(engine: ramify.Engine, users: int, tokens: int, params: dict[str, Any]) -> float:
    prompts = [PROMPTS[user % len(PROMPTS)] for user in range(users)]
    begin = time.perf_counter()
    answers = engine.generate(prompts, sampling_params={**params, "max_new_tokens": tokens, "sampling_seed": 7})
    seconds = time.perf_counter() - begin
    return sum(answer["meta_info"]["completion_tokens"] for answer in answers) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--users", type=int, nargs="*", default=[1, 8, 32])
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores; tokens/s, medians of {options.rounds} rounds, and the ratio's range")
    print("| workload | users | depth 0 | depth 1 | ratio |")
    print("|---|---|---|---|---|")
    with (
        ramify.Engine(options.model, max_total_tokens=16384, disable_overlap_schedule=True) as plain,
        ramify.Engine(options.model, max_total_tokens=16384) as overlapping,
    ):
        engines = (plain, overlapping)
        for name, params in WORKLOADS.items():
            for users in options.users:
                for engine in engines:
                    rate(engine, users, options.tokens, params)
                rounds = []
                for at in range(options.rounds):
                    found = {e: rate(engines[e], users, options.tokens, params) for e in ((0, 1) if at % 2 else (1, 0))}
                    rounds.append((found[0], found[1]))
                ratios = [one / none for none, one in rounds]
                before, after = (statistics.median(each) for each in zip(*rounds, strict=True))
                spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"| {name} | {users} | {before:.0f} | {after:.0f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
