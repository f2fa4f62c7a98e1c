"""How long `ramify serve` takes to its first token, and what memory it takes: `python benchmarks/start.py [MODEL]`.

A round reads the file, imports torch, starts a server and asks it for a token as soon as it listens; the checkpoint
is put out of the page cache before it is read. The bar is the time to import torch and 1.5 times that of the read.
Memory is the sum of the proportional set sizes of all processes of the server, after some requests; its bar is 1.15
times the weights, the KV pool and 400 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

LIMIT = 300.0  # seconds to the first token
READ = 16 << 20
POOL_TOKENS = 8192


def forget(files: list[Path]) -> None:
    """Out of the page cache, as after a reboot. Pages that a process has mapped stay."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> float:
    begin = time.perf_counter()
    buffer = bytearray(READ)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - begin


def import_torch() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begin


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    def __init__(self, model: Path, settings: list[str]) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        flags = ["--port", str(port), "--max-total-tokens", str(POOL_TOKENS), *settings]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ramify.cli.main", "serve", str(model), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, tokens: int) -> None:
        body = {"text": "Once upon a time", "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True}}
        request = urllib.request.Request(
            f"{self._url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            answer.read()

    def first_token(self) -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                return self.ask(1)
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None, "the server ended"
                time.sleep(0.02)
        raise TimeoutError("no first token")

    def memory(self) -> int:
        """Proportional set sizes, bytes."""
        parent = psutil.Process(self._process.pid)
        return sum(each.memory_full_info().pss for each in (parent, *parent.children(recursive=True)))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("build/peers/model"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("flags", nargs="*", help="of `ramify serve`, after --")
    options = parser.parse_args()
    files = sorted(options.model.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    config = json.loads((options.model / "config.json").read_text())
    heads = config["num_key_value_heads"] * config.get(
        "head_dim", config["hidden_size"] // config["num_attention_heads"]
    )
    pool = POOL_TOKENS * config["num_hidden_layers"] * heads * 2 * 2
    ratios, memories = [], []
    print(f"{size / 1e9:.2f} GB of weights, {pool / 1e9:.2f} GB of KV pool")
    for _ in range(options.rounds):
        forget(files)
        reading, importing = read(files), import_torch()
        forget(files)
        begin = time.perf_counter()
        server = Server(options.model, options.flags)
        try:
            server.first_token()
            started = time.perf_counter() - begin
            for _ in range(3):
                server.ask(16)
            memory = server.memory()
        finally:
            server.close()
        bar = importing + 1.5 * reading
        ratios.append(started / bar)
        memories.append(memory / (1.15 * size + pool + 400e6))
        print(
            f"read {reading:.2f} s, import {importing:.2f} s, first token {started:.2f} s: {ratios[-1]:.2f} of the bar"
        )
        print(f"    memory {memory / 1e9:.2f} GB: {memories[-1]:.2f} of its bar")
    for name, found in (("start", ratios), ("memory", memories)):
        print(f"{name}: {statistics.median(found):.2f} of the bar ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
