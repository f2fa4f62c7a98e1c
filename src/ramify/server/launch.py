"""`ramify serve`: the parent of the engines and the API workers. It opens the port, starts them, and ends with them.

    parent ──┬── engine          scheduler and model; one for each model, engine-1 for the second
             ├── api-0           HTTP, templates, tokenizing; all on one listening socket
             └── api-1 ...

No child outlives the parent, whatever ends it. A child that dies is started again, and nobody else notices: how often
and how soon an engine is, `server.keeper` says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ramify.config.resolve import Resolved
from ramify.core.errors import StartupError
from ramify.engine import handover
from ramify.engine.handover import Handover
from ramify.server.keeper import Keeper
from ramify.wire.notices import (
    EngineFailed,
    EngineIdle,
    EngineNews,
    EngineReady,
    LetGo,
    Lines,
    Unwanted,
    Wanted,
    WorkerReady,
    line_of,
    to_parent,
)

log = logging.getLogger(__name__)

BACKLOG = 2048
RESTARTS = 5  # of API workers, within a minute
AGAIN = 1.0  # seconds after which a second SIGTERM is meant
GRACE = 5.0  # seconds a child gets between SIGTERM and SIGKILL, beyond the drain timeout


def serve(models: Sequence[Resolved]) -> int:
    """Until SIGTERM or Ctrl-C. Returns the exit status."""
    with _Parent(models) as parent:
        return parent.run()


def listen(host: str, port: int) -> socket.socket:
    """The listening socket; raises `StartupError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        raise StartupError(
            f"cannot listen on {host}:{port}: {e.strerror}", "Choose another --port or --host."
        ) from None
    listener.setblocking(False)
    return listener


class _Parent:
    def __init__(self, models: Sequence[Resolved]) -> None:
        self._models = tuple(models)
        self._settings = models[0].settings.server
        self._listener: socket.socket | None = listen(self._settings.host, self._settings.port)
        self._folder = Path(tempfile.mkdtemp(prefix="ramify-"))  # 0700
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._workers_ready: set[int] = set()
        self._restarted: list[float] = []
        self._started = time.monotonic()
        self._ready = False
        self._stopping = 0.0  # when it was asked to stop
        self._lifeline, self._lifeline_end = os.pipe()
        self._news, self._news_end = os.pipe()
        self._wake, self._wake_end = os.pipe()
        os.set_blocking(self._news, False)
        self._orders: dict[int, int] = {}  # ends of pipes to API workers
        self._lines = Lines()
        self._engines = [_Engine(self, at, model) for at, model in enumerate(models)]

    def __enter__(self) -> _Parent:
        workers = self._settings.api_workers
        given = Handover(self._models, workers, self._socket.fileno(), self._lifeline, self._news_end)
        handover.write(self._folder, given)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left behind: no process, no socket file."""
        for child in self._children.values():
            if child.poll() is None:
                child.kill()
        for child in self._children.values():
            child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _socket(self) -> socket.socket:
        assert self._listener is not None
        return self._listener

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: os.write(self._wake_end, b"c"))
        log.info("serving %s on %s", ", ".join(model.served_name for model in self._models), self.url)
        for engine in self._engines:
            engine.keeper.begin()
        for origin in range(self._settings.api_workers):
            self._spawn_worker(origin)
        return self._watch()

    def _on_signal(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._stopping and (number == signal.SIGINT or now - self._stopping > AGAIN):
            self._abandon()
        self._stopping = self._stopping or now
        os.write(self._wake_end, b"s")

    def _abandon(self) -> None:
        """Asked a second time: no more waiting. (Some supervisors send SIGTERM twice at once.)"""
        for child in self._children.values():
            child.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)

    def _spawn(self, name: str, module: str, *arguments: str, inherits: Sequence[int] = ()) -> None:
        self._children[name] = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            pass_fds=[self._lifeline, self._news_end, *inherits],
            stdin=subprocess.DEVNULL,
        )

    def _spawn_worker(self, origin: int) -> None:
        if origin in self._orders:
            os.close(self._orders.pop(origin))
        orders, self._orders[origin] = os.pipe()
        os.set_blocking(self._orders[origin], False)
        given = (str(self._folder), str(origin), str(orders))
        self._spawn(f"api-{origin}", "ramify.server.process", *given, inherits=(orders, self._socket.fileno()))
        os.close(orders)
        for engine in self._engines:
            self._tell(origin, engine.news)

    def _watch(self) -> int:
        """News of children, and their ends, until a signal or until an engine that has to start does not."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._news, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(self._patience()):
                    if key.fd == self._news:
                        self._read_news()
                        continue
                    os.read(key.fd, 4096)
                    if self._stopping:
                        return self._drain()
                    if (code := self._reap()) is not None:
                        return code
                for engine in self._engines:
                    engine.keeper.tick()

    def _patience(self) -> float | None:
        due = [engine.keeper.due for engine in self._engines if engine.keeper.due is not None]
        return max(min(due) - time.monotonic(), 0) if due else None

    def _read_news(self) -> None:
        """All that there is: whoever has ended may have said why, and other things before."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._lines.read(self._news) or ():
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        notice = to_parent(line)
        if isinstance(notice, WorkerReady):
            self._workers_ready.add(notice.origin)
            self._say_ready()
            return
        keeper = self._engines[notice.model].keeper
        if isinstance(notice, EngineReady):
            keeper.ready(notice.start)
            self._say_ready()
        elif isinstance(notice, EngineFailed):
            self._engines[notice.model].failed(notice.why)
        elif isinstance(notice, EngineIdle):
            keeper.idle(notice.start)
        elif isinstance(notice, Unwanted):
            keeper.idle()
        elif isinstance(notice, Wanted):
            keeper.want()
        else:
            assert isinstance(notice, LetGo)
            keeper.let_go(notice.origin, notice.start, notice.free)

    def _say_ready(self) -> None:
        """Once, when everybody is there who has to be."""
        missing = [engine for engine in self._engines if engine.keeper.must_start]
        if self._ready or missing or len(self._workers_ready) < self._settings.api_workers:
            return
        self._ready = True
        seconds = time.monotonic() - self._started
        log.info("ready after %.1f s: %s (OpenAI API at %s/v1)", seconds, self.url, self.url)

    def _tell(self, origin: int, news: EngineNews) -> None:
        """To one API worker. One that has not read for so long that its pipe is full is ended: it would never know."""
        try:
            os.write(self._orders[origin], line_of(news))
        except BrokenPipeError:
            log.debug("api-%d has ended and will be told when it is back", origin)
        except BlockingIOError:
            log.error("api-%d does not read what it is told", origin)
            self._children[f"api-{origin}"].kill()

    def _reap(self) -> int | None:
        """Children that have ended. An engine that was never ready ends the server, unless it is lazy."""
        self._read_news()
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            del self._children[name]
            engine = next((engine for engine in self._engines if engine.name == name), None)
            if engine is None:
                log.error("%s ended with status %d", name, code)
                self._restart(int(name.partition("-")[2]))
            elif engine.keeper.must_start:
                log.error("%s ended with status %d", name, code)
                return 1
            else:
                engine.ended(code)
        return None

    def _restart(self, origin: int) -> None:
        now = time.monotonic()
        self._restarted = [at for at in self._restarted if now - at < 60] + [now]
        if len(self._restarted) > RESTARTS:
            raise StartupError("API workers keep ending", "The lines above say why.")
        self._spawn_worker(origin)

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _drain(self) -> int:
        """API workers finish what is open, then the engines stop."""
        log.info("stopping; open requests have %g s", self._settings.drain_timeout)
        self._listener, listener = None, self._socket
        listener.close()
        engines = {engine.name for engine in self._engines}
        workers = [child for name, child in self._children.items() if name not in engines]
        self._end(workers, self._settings.drain_timeout + GRACE)
        self._end([child for name, child in self._children.items() if name in engines], GRACE)
        log.info("stopped")
        return 0

    def _end(self, children: list[subprocess.Popen[bytes]], seconds: float) -> None:
        for child in children:
            child.send_signal(handover.STOP)
        until = time.monotonic() + seconds
        for child in children:
            try:
                child.wait(max(until - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                log.warning("process %d did not end in time", child.pid)
                child.kill()

    # -- what engines have done ----------------------------------------------------------------------------------------

    def start_engine(self, name: str, model: int, start: int) -> None:
        shutil.rmtree(handover.sockets(self._folder, model, start - 1), ignore_errors=True)
        handover.sockets(self._folder, model, start).mkdir(mode=0o700)
        self._spawn(name, "ramify.engine.process", str(self._folder), str(model), str(start))

    def stop_engine(self, name: str, number: int = handover.STOP) -> None:
        self._children[name].send_signal(number)

    def publish(self, news: EngineNews) -> None:
        for origin in list(self._orders):
            self._tell(origin, news)


class _Engine:
    """The hands of one model's keeper."""

    def __init__(self, parent: _Parent, model: int, resolved: Resolved) -> None:
        self.name = f"engine-{model}" if model else "engine"
        self._parent, self._model = parent, model
        self._served, self._why = resolved.served_name, ""
        workers, lazy = resolved.settings.server.api_workers, resolved.settings.model.lazy
        self.keeper = Keeper(self._served, self, lazy=lazy, workers=workers)

    @property
    def news(self) -> EngineNews:
        return EngineNews(self._model, self.keeper.number, self.keeper.phase, self.keeper.why)

    def failed(self, why: str) -> None:
        """It says why it is going to end."""
        if self.keeper.must_start:
            raise StartupError(why)
        self._why = why

    def ended(self, code: int) -> None:
        why, self._why = self._why or "the engine has died", ""
        if self.keeper.phase == "leaving" and code == 0:
            log.info("the engine of %s has ended", self._served)
        else:
            log.error("the engine of %s ended with status %d: %s", self._served, code, why)
        self.keeper.ended(why)

    def start(self, number: int) -> None:
        if self.keeper.lazy or number > 1:
            log.info("starting the engine of %s", self._served)
        self._parent.start_engine(self.name, self._model, number)

    def stop(self) -> None:
        log.info("the engine of %s has nothing to do and ends", self._served)
        self._parent.stop_engine(self.name)

    def kill(self) -> None:
        log.warning("the engine of %s does not end and is killed", self._served)
        self._parent.stop_engine(self.name, signal.SIGKILL)

    def publish(self) -> None:
        self._parent.publish(self.news)
