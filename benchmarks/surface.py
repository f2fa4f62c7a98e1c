"""What the HTTP surface itself can do, with no model behind it: `python benchmarks/surface.py`.

An API worker and the deciding half of an engine run on an executor that makes tokens up. A client of raw sockets asks
`/v1/completions`. Wall-clock rates on a small machine are those of client, engine and worker together; what one core
can do is what counts, so rates are also given per second of CPU that the API worker used. Beside it stands a bare
starlette application under uvicorn that streams the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

TICK = 20e-6
VOCAB = 4096  # of the bundled model
HERE = Path(__file__).parent


@dataclass
class Found:
    """`rate` per second of wall-clock, `per_core` per second of the API workers' CPU, `late` ms at p50 and p99."""

    what: str
    rate: float
    per_core: float
    late: tuple[float, float] | None = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("the server did not start")
        time.sleep(0.05)


@contextmanager
def ramify(workers: int, step: float) -> Iterator[tuple[int, list[psutil.Process]]]:
    port = free_port()
    command = [sys.executable, str(Path(__file__)), "--serve", str(port), "--api-workers", str(workers)]
    env = {**os.environ, "PYTHONPATH": str(HERE), "SURFACE_STEP": str(step)}
    server = subprocess.Popen(command, env=env)
    try:
        wait_until(lambda: is_ready(port))
        children = psutil.Process(server.pid).children()
        yield port, [child for child in children if "ramify.server.process" in " ".join(child.cmdline())]
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def bare(tokens: int) -> Iterator[tuple[int, list[psutil.Process]]]:
    """A starlette application that streams frames like ours, `tokens` of them."""
    port = free_port()
    command = [sys.executable, str(Path(__file__)), "--bare", str(port), "--tokens", str(tokens)]
    server = subprocess.Popen(command)
    try:
        wait_until(lambda: listens(port))
        yield port, [psutil.Process(server.pid)]
    finally:
        server.terminate()
        server.wait(20)


def serve(port: int, workers: int) -> None:
    from ramify.config.read import overlay
    from ramify.config.settings import Settings
    from ramify.engine.build import prepare
    from ramify.server import launch

    plain = launch._Parent._spawn

    def spawn(self: launch._Parent, name: str, module: str, *arguments: str, inherits: Sequence[int] = ()) -> None:
        plain(self, name, "surface_engine" if name == "engine" else module, *arguments, inherits=inherits)

    launch._Parent._spawn = spawn  # type: ignore[method-assign]
    asked = {"port": port, "load_format": "none", "api_workers": workers, "max_running_requests": 512}
    launch.serve([prepare(overlay(Settings(), {**asked, "log_interval": 0, "drain_timeout": 1}, "benchmark"))])


def serve_bare(port: int, tokens: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    choice = '{"index":0,"text":" the","logprobs":null,"finish_reason":null,"matched_stop":null}'
    head = '"id":"0123456789abcdef0123456789abcdef","object":"text_completion","created":1795240887,"model":"concierge"'
    frame = f'data: {{{head},"choices":[{choice}],"usage":null}}\n\n'.encode()

    async def frames() -> AsyncIterator[bytes]:
        for _ in range(tokens):
            yield frame
        yield b"data: [DONE]\n\n"

    async def stream(request: Request) -> StreamingResponse:
        await request.json()
        return StreamingResponse(frames(), media_type="text/event-stream")

    application = Starlette(routes=[Route("/v1/completions", stream, methods=["POST"])])
    uvicorn.run(application, port=port, log_level="error", access_log=False)


class Asker(asyncio.Protocol):
    """One connection that asks the same again and again until `count` answers are in."""

    def __init__(self, request: bytes, count: int, marker: bytes, timed: bool) -> None:
        self.request, self.left, self.marker, self.timed = request, count, marker, timed
        self.events = 0
        self.late: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: {")
        if self.timed:
            self._time(data)
        joined = self._tail + data
        ends = joined.count(self.marker)
        self._tail = joined[-len(self.marker) + 1 :] if not joined.endswith(self.marker) else b""
        for _ in range(ends):
            self.left -= 1
            if self.left == 0:
                self.transport.close()
                self.done.set_result(None)
                return
            self._ask()

    def _time(self, data: bytes) -> None:
        now = time.monotonic() / TICK
        for part in data.split(b'"token_ids":[')[1:]:
            ids = part[: part.find(b"]")]
            if ids:
                self.late += [(now - int(token)) % VOCAB * TICK for token in ids.split(b",")]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the server hung up"))


def request_bytes(body: dict[str, object]) -> bytes:
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}"
    return head.encode() + b"\r\n\r\n" + raw


async def load(port: int, streams: int, each: int, body: dict[str, object], marker: bytes, timed: bool) -> list[Asker]:
    loop = asyncio.get_running_loop()
    askers = []
    for _ in range(streams):
        _, asker = await loop.create_connection(
            lambda: Asker(request_bytes(body), each, marker, timed), "127.0.0.1", port
        )
        askers.append(asker)
    await asyncio.wait_for(asyncio.gather(*(asker.done for asker in askers)), 120)
    return askers


def busy(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def measure(
    what: str, port: int, workers: list[psutil.Process], streams: int, each: int, body: dict[str, object]
) -> Found:
    stream = bool(body.get("stream"))
    timed = bool(body.get("return_token_ids"))
    marker = b"data: [DONE]" if stream else b'"object":"text_completion"'
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(port, min(streams, 4), 1, body, marker, False))
        cpu, start = busy(workers), time.monotonic()
        askers = runner.run(load(port, streams, each, body, marker, timed))
        wall, cpu = time.monotonic() - start, busy(workers) - cpu
    count = sum(asker.events for asker in askers) if stream else streams * each
    late = sorted(value for asker in askers for value in asker.late)
    at = (statistics.median(late) * 1e3, late[int(len(late) * 0.99)] * 1e3) if late else None
    return Found(what, count / wall, count / cpu, at)


def scenarios(tokens: int, workers: int) -> Iterator[Found]:
    text: dict[str, object] = {"prompt": "Once upon a time", "ignore_eos": True}
    with ramify(workers, 0) as (port, api):
        yield measure("short requests, 64 connections", port, api, 64, 40, {**text, "max_tokens": 1})
        streamed = {**text, "max_tokens": tokens, "stream": True}
        for streams in (1, 64, 512):
            yield measure(f"streamed tokens, {streams} streams", port, api, streams, max(64 // streams, 1), streamed)
    for streams, step in ((1, 0.01), (64, 0.02), (512, 0.05)):
        with ramify(workers, step) as (port, api):
            asked = {**text, "max_tokens": 100, "stream": True, "return_token_ids": True}
            yield measure(f"paced, {streams} streams, {1 / step:g} tokens/s each", port, api, streams, 1, asked)


def bare_scenarios(tokens: int) -> Iterator[Found]:
    body: dict[str, object] = {"stream": True}
    for streams in (1, 64, 512):
        with bare(tokens) as (port, api):
            yield measure(f"bare starlette, {streams} streams", port, api, streams, max(64 // streams, 1), body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each stream")
    parser.add_argument("--api-workers", type=int, default=1)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.api_workers)
    elif options.bare:
        serve_bare(options.bare, options.tokens)
    else:
        report(options.tokens, options.api_workers)


def report(tokens: int, workers: int) -> None:
    table = Table(title=f"The HTTP surface, {workers} API worker(s)")
    for column in ("what", "per second", "per second of worker CPU", "late p50 ms", "late p99 ms"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for found in chain(scenarios(tokens, workers), bare_scenarios(tokens)):
        late = [f"{value:.2f}" for value in found.late] if found.late else ["", ""]
        print(found, file=sys.stderr)
        table.add_row(found.what, f"{found.rate:,.0f}", f"{found.per_core:,.0f}", *late)
    Console().print(table)


if __name__ == "__main__":
    main()
