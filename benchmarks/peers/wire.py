"""What the driver and the workers say to each other: JSON, a line each, over the worker's stdin and stdout.

A worker is a script that loads one peer and calls `serve`. It says {"ready": {versions}} when it has loaded. Then

    {"prepare": {"users": 8, "context": 256}}   -> {"prepared": true}      not measured
    {"run": {"prompts": [[ids]], "new": 128}}   -> {"times": [[seconds]], "ids": [[ids]], "cached": [tokens] or null}

`times` are those at which each request's tokens became known, counted from the moment that the prompts were at hand.
Decoding is greedy and no token ends an output. This file runs in every peer's environment: standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

PR_SET_PDEATHSIG = 1


class Record:
    """Output tokens and their times, request by request."""

    def __init__(self, requests: int) -> None:
        self.begin = time.perf_counter()
        self.times: list[list[float]] = [[] for _ in range(requests)]
        self.ids: list[list[int]] = [[] for _ in range(requests)]
        self.cached: list[int] | None = None

    def add(self, request: int, *ids: int) -> None:
        now = time.perf_counter() - self.begin
        self.times[request] += [now] * len(ids)
        self.ids[request] += ids


class Peer(Protocol):
    versions: dict[str, str]

    def prepare(self, users: int, context: int) -> None:
        """Room for so many requests of so many tokens at once. What was cached may be forgotten."""

    def run(self, prompts: list[list[int]], new: int) -> Record:
        """`new` tokens for each prompt, all of which arrive now."""


def private_stdout() -> Any:
    """The real stdout, for the protocol alone: what libraries print goes to stderr from here on."""
    mine = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return mine


def serve(load: Callable[[], Peer]) -> None:
    """Answer until stdin closes. The worker dies with its driver, also while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = private_stdout()
    peer = load()
    print(json.dumps({"ready": peer.versions}), file=out)
    for line in sys.stdin:
        print(json.dumps(answer(peer, json.loads(line))), file=out)
    out.flush()
    os._exit(0)  # not every library ends its threads


def answer(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    if "prepare" in asked:
        peer.prepare(**asked["prepare"])
        return {"prepared": True}
    record = peer.run(**asked["run"])
    return {"times": record.times, "ids": record.ids, "cached": record.cached}
