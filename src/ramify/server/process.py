"""One API worker as a process: `python -m ramify.server.process FOLDER ORIGIN ORDERS`, started by
`server.launch`; ORDERS is the pipe on which the parent tells it of the engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ramify.core import log as logs
from ramify.engine import handover
from ramify.engine.client import Client
from ramify.engine.engine import limits_of
from ramify.engine.handover import Handover
from ramify.engine.remembered import Remembered
from ramify.server.app import make_app
from ramify.server.directory import Directory
from ramify.server.link import DRAINING, Link
from ramify.server.state import TOKENIZER_THREADS, State
from ramify.server.words import AdapterWords
from ramify.wire.channel import ZmqClientEnd
from ramify.wire.notices import EngineNews, LetGo, Unwanted, Wanted, WorkerReady

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5
AFTER_DRAIN = 2  # seconds for clients to take the last word of what was cut off
HEAD_SECONDS = 20.0
MAX_HEAD = 64 << 10  # bytes of request line and headers
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_MANY_BODY = (
    b'{"error":{"message":"too many connections are open","type":"server_error","param":null,"code":"overloaded"}}'
)
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(TOO_MANY_BODY), TOO_MANY_BODY)
)


def main(folder: Path, origin: int, orders: int) -> int:
    given = handover.read(folder)
    logs.setup(given.models[0].settings.log.log_level, role=f"api-{origin}")
    handover.follow_parent(given)
    handover.leave_signals_to_parent()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(given, folder, origin, orders))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists, which is everywhere but on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(given: Handover, folder: Path, origin: int, orders: int) -> None:
    """Until the parent says stop; then open requests may go on for the drain timeout."""
    directory = await _directory(given, folder, origin)
    loop = asyncio.get_running_loop()

    def hear(news: EngineNews) -> None:
        loop.call_soon_threadsafe(directory.hear, news)

    handover.hear_of_engines(orders, hear)
    settings = given.models[0].settings.server
    config = uvicorn.Config(
        make_app(directory),
        http=functools.partial(LimitedProtocol, most=settings.max_connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_timeout) + AFTER_DRAIN,
    )
    server = _Server(config, directory)
    listener = socket.socket(fileno=given.listener)
    announce = asyncio.create_task(_announce(server, directory, given, origin))
    await server.serve(sockets=[listener])
    announce.cancel()
    directory.close()


async def _directory(given: Handover, folder: Path, origin: int) -> Directory:
    """The models; of those that are not lazy, all that can be read is."""
    threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="ramify-text")
    states = [_state(given, folder, origin, model, threads) for model in range(len(given.models))]
    await asyncio.gather(*(state.load() for state in states if not state.link.lazy))
    return Directory(states)


def _state(given: Handover, folder: Path, origin: int, model: int, threads: ThreadPoolExecutor) -> State:
    resolved, loop = given.models[model], asyncio.get_running_loop()

    def connect(start: int) -> Client:
        meeting = handover.sockets(folder, model, start)
        if not meeting.is_dir():
            raise FileNotFoundError(meeting)
        client = Client(ZmqClientEnd(meeting, origin), limits_of(resolved), state.tokenizer)
        client.on_logging = lambda logging: logs.set_level(logging.log_level)
        client.on_change = changed
        client.start()
        return client

    def changed() -> None:
        loop.call_soon_threadsafe(link.changed)

    parent, lazy = _ToParent(given, origin, model), resolved.settings.model.lazy
    link = Link(resolved.served_name, connect, parent, lazy=lazy, most=resolved.queue)
    words = None if resolved.adapters is None else AdapterWords(resolved, Remembered(folder, model))
    state = State(resolved, link, threads, folder, words)
    return state


class _ToParent:
    """What the link of one model says."""

    def __init__(self, given: Handover, origin: int, model: int) -> None:
        self._given, self._origin, self._model = given, origin, model

    def want(self) -> None:
        handover.tell(self._given, Wanted(self._model))

    def unwant(self) -> None:
        handover.tell(self._given, Unwanted(self._model))

    def let_go(self, start: int, free: bool) -> None:
        handover.tell(self._given, LetGo(self._origin, self._model, start, free))


async def _announce(server: uvicorn.Server, directory: Directory, given: Handover, origin: int) -> None:
    """Ready is who listens, and waits for no engine that has to be there."""
    while not (server.started and all(state.link.settled for state in directory.states)):
        await asyncio.sleep(0.005)
    handover.tell(given, WorkerReady(origin))


class _Server(uvicorn.Server):
    """Says that it drains as soon as it does, and tells those that it cannot wait for."""

    def __init__(self, config: uvicorn.Config, directory: Directory) -> None:
        super().__init__(config)
        self._directory = directory
        self._loop = asyncio.get_running_loop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signal.signal(handover.STOP, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame) -> None:  # type: ignore[no-untyped-def]
        self._loop.call_soon_threadsafe(self._drain)
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        log.info("draining: %d requests are open", self._directory.open_requests)
        self._directory.drain()
        seconds = self._directory.first.resolved.settings.server.drain_timeout
        self._loop.call_later(seconds, self._directory.give_up, DRAINING)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a limit on what comes before the body, and on `most` connections."""

    _head = 0  # bytes received since a head began and has not ended
    _ends = 0  # ends of heads and of messages seen
    _in_body = False
    _opening: asyncio.TimerHandle | None = None  # runs while a head is awaited or has begun

    def __init__(self, *args: Any, most: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most = most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.write(TOO_MANY)
            transport.close()
            return
        self._opening = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _too_late(self) -> None:
        """A connection that does not finish a head in time is nobody's."""
        if not self.transport.is_closing():
            self.transport.close()

    def _opened(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        ends = self._ends
        super().data_received(data)
        self._head = self._head + len(data) if ends == self._ends and not self._in_body else 0
        if self._head and self._opening is None:
            self._opening = self.loop.call_later(HEAD_SECONDS, self._too_late)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._ends += 1
        self._opened()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._ends += 1
        self._in_body = False
        super().on_message_complete()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stderr.flush()
    os._exit(code)
