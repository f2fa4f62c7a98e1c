"""`ramify serve`: the parent of one engine and its API workers. It opens the port, starts them, and ends with them.

    parent ──┬── engine          scheduler and model
             ├── api-0           HTTP, templates, tokenizing; all on one listening socket
             └── api-1 ...

No child outlives the parent, whatever ends it. An API worker that dies is started again; when the engine dies, the
workers stay and say 503, because what supervises this server should decide about restarting it.
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
from pathlib import Path
from types import TracebackType

from ramify.config.resolve import Resolved
from ramify.core.errors import StartupError
from ramify.engine import handover
from ramify.engine.handover import Handover

log = logging.getLogger(__name__)

BACKLOG = 2048
RESTARTS = 5  # of API workers, within a minute
AGAIN = 1.0  # seconds after which a second SIGTERM is meant
GRACE = 5.0  # seconds a child gets between SIGTERM and SIGKILL, beyond the drain timeout


def serve(resolved: Resolved) -> int:
    """Until SIGTERM or Ctrl-C. Returns the exit status."""
    with _Parent(resolved) as parent:
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
    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._settings = resolved.settings.server
        self._listener: socket.socket | None = listen(self._settings.host, self._settings.port)
        self._folder = Path(tempfile.mkdtemp(prefix="ramify-"))  # 0700
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ready: set[str] = set()
        self._restarted: list[float] = []
        self._started = time.monotonic()
        self._stopping = 0.0  # when it was asked to stop
        self._lifeline, self._lifeline_end = os.pipe()
        self._pulse, self._pulse_end = os.pipe()
        self._news, self._news_end = os.pipe()
        self._wake, self._wake_end = os.pipe()

    def __enter__(self) -> _Parent:
        handover.write(
            self._folder,
            Handover(
                self._resolved,
                self._settings.api_workers,
                self._socket.fileno(),
                self._lifeline,
                self._pulse,
                self._news_end,
            ),
        )
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
        log.info("serving %s on %s", self._resolved.served_name, self.url)
        self._spawn("engine", "ramify.engine.process", str(self._folder))
        os.close(self._pulse_end)  # only the engine holds it now
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

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        inherited = [self._lifeline, self._news_end]
        inherited += [self._pulse_end] if name == "engine" else [self._pulse, self._socket.fileno()]
        self._children[name] = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], pass_fds=inherited, stdin=subprocess.DEVNULL
        )

    def _spawn_worker(self, origin: int) -> None:
        self._spawn(f"api-{origin}", "ramify.server.process", str(self._folder), str(origin))

    def _watch(self) -> int:
        """News of children, and their ends, until a signal or until the engine fails to start."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._news, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    text = os.read(key.fd, 4096).decode()
                    if key.fd == self._news:
                        for line in text.splitlines():
                            self._hear(line)
                    elif self._stopping:
                        return self._drain()
                    elif (code := self._reap()) is not None:
                        return code

    def _hear(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        if kind == "failed":
            raise StartupError(rest.encode().decode("unicode_escape"))
        if line in self._ready:
            return  # an API worker that was started again
        self._ready.add(line)
        if len(self._ready) == 1 + self._settings.api_workers:
            seconds = time.monotonic() - self._started
            log.info("ready after %.1f s: %s (OpenAI API at %s/v1)", seconds, self.url, self.url)

    def _reap(self) -> int | None:
        """Children that have ended. The engine failing before it was ready ends the server."""
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            del self._children[name]
            log.error("%s ended with status %d", name, code)
            if name != "engine":
                self._restart(int(name.partition("-")[2]))
            elif "engine ready" not in self._ready:
                self._last_words()
                return 1
        return None

    def _last_words(self) -> None:
        """The engine may have said why."""
        os.set_blocking(self._news, False)
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._news, 65536).decode().splitlines():
                self._hear(line)

    def _restart(self, origin: int) -> None:
        now = time.monotonic()
        self._restarted = [at for at in self._restarted if now - at < 60] + [now]
        if len(self._restarted) > RESTARTS:
            raise StartupError("API workers keep ending", "The lines above say why.")
        self._spawn_worker(origin)

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _drain(self) -> int:
        """API workers finish what is open, then the engine stops."""
        log.info("stopping; open requests have %g s", self._settings.drain_timeout)
        self._listener, listener = None, self._socket
        listener.close()
        workers = [child for name, child in self._children.items() if name != "engine"]
        self._end(workers, self._settings.drain_timeout + GRACE)
        self._end([child for name, child in self._children.items() if name == "engine"], GRACE)
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
