"""Messages between API workers and the engine: in one process, or over ZeroMQ on unix sockets.

One engine, numbered API workers. The sockets lie in a folder that only their owner can enter; there is no TCP, and
what crosses is msgpack of the structs of `wire.messages`. Sending never blocks: what can be queued is bounded by the
engine's limits on requests, and the other end receives in a thread of its own.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any, Protocol

from ramify.wire import codec
from ramify.wire.messages import Farewell, ToClient, ToEngine

CLOSED = "the client has closed"


class EngineEnd(Protocol):
    """The engine's end. One thread uses it."""

    def take(self, timeout: float | None) -> list[ToEngine]:
        """All messages that are there. Without any, waits `timeout` seconds for one (None: for ever, 0: not)."""

    def send(self, origin: int, message: ToClient) -> None: ...

    def broadcast(self, message: ToClient) -> None: ...

    def wake(self) -> None:
        """From any thread: `take` returns without a message, the one that waits or else the next that would."""

    def close(self) -> None: ...


class ClientEnd(Protocol):
    """An API worker's end. Any thread may send; one receives."""

    origin: int

    def send(self, message: ToEngine) -> None: ...

    def receive(self) -> ToClient:
        """Waits. After `close` it returns `Farewell`, and nothing after that."""

    def close(self, reason: str = CLOSED) -> None:
        """From any thread; `reason` is in the farewell."""


_Inbox = queue.SimpleQueue[ToEngine | None]  # None only wakes


class _InprocEngineEnd:
    def __init__(self, inbox: _Inbox, outbox: queue.SimpleQueue[ToClient]) -> None:
        self._inbox, self._outbox = inbox, outbox

    def take(self, timeout: float | None) -> list[ToEngine]:
        taken: list[ToEngine | None] = []
        try:
            taken.append(self._inbox.get(block=timeout != 0, timeout=timeout or None))
            while True:
                taken.append(self._inbox.get_nowait())
        except queue.Empty:
            return [message for message in taken if message is not None]

    def send(self, origin: int, message: ToClient) -> None:
        self._outbox.put(message)

    def broadcast(self, message: ToClient) -> None:
        self._outbox.put(message)

    def wake(self) -> None:
        self._inbox.put(None)

    def close(self) -> None:
        self._outbox.put(Farewell("the engine has stopped"))


class _InprocClientEnd:
    origin = 0

    def __init__(self, inbox: _Inbox, outbox: queue.SimpleQueue[ToClient]) -> None:
        self._inbox, self._outbox = inbox, outbox

    def send(self, message: ToEngine) -> None:
        self._inbox.put(message)

    def receive(self) -> ToClient:
        return self._outbox.get()

    def close(self, reason: str = CLOSED) -> None:
        self._outbox.put(Farewell(reason))


def inproc() -> tuple[EngineEnd, ClientEnd]:
    """Both ends of a channel within one process; messages are passed as they are."""
    inbox: _Inbox = queue.SimpleQueue()
    outbox: queue.SimpleQueue[ToClient] = queue.SimpleQueue()
    return _InprocEngineEnd(inbox, outbox), _InprocClientEnd(inbox, outbox)


def _address(folder: Path, name: str) -> str:
    return f"ipc://{folder / name}"


def _socket(kind: int) -> Any:
    """A socket without a high-water mark, so that sending does not block, and without lingering at exit."""
    import zmq

    socket: Any = zmq.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.linger = 200
    return socket


class ZmqEngineEnd:
    """Binds `engine` in `folder` and connects to `workers` API workers."""

    def __init__(self, folder: Path, workers: int) -> None:
        import zmq

        self._in = _socket(zmq.PULL)
        self._in.bind(_address(folder, "engine"))
        self._out = [_socket(zmq.PUSH) for _ in range(workers)]
        for origin, out in enumerate(self._out):
            out.connect(_address(folder, f"api-{origin}"))
        self._own = _socket(zmq.PUSH)
        self._own.connect(_address(folder, "engine"))
        self._waking = threading.Lock()
        self._again = zmq.Again

    def take(self, timeout: float | None) -> list[ToEngine]:
        taken: list[ToEngine] = []
        if not self._in.poll(-1 if timeout is None else int(timeout * 1000)):
            return taken
        try:
            while True:
                frame = self._in.recv(1)  # 1: do not block
                if frame:
                    taken.append(codec.decode_to_engine(frame))
        except self._again:
            return taken

    def send(self, origin: int, message: ToClient) -> None:
        if origin >= 0:
            self._out[origin].send(codec.encode(message))

    def broadcast(self, message: ToClient) -> None:
        for origin in range(len(self._out)):
            self.send(origin, message)

    def wake(self) -> None:
        with self._waking:
            self._own.send(b"")

    def close(self) -> None:
        self.broadcast(Farewell("the engine has stopped"))
        for socket in (self._in, self._own, *self._out):
            socket.close()


class ZmqClientEnd:
    """Binds `api-<origin>` in `folder` and connects to the engine."""

    def __init__(self, folder: Path, origin: int) -> None:
        import zmq

        self.origin = origin
        self._in = _socket(zmq.PULL)
        self._in.bind(_address(folder, f"api-{origin}"))
        self._out = _socket(zmq.PUSH)
        self._out.connect(_address(folder, "engine"))
        self._own = _socket(zmq.PUSH)
        self._own.connect(_address(folder, f"api-{origin}"))
        self._sending = threading.Lock()  # a ZeroMQ socket may move between threads, not be used by two at once
        self._parted = False

    def send(self, message: ToEngine) -> None:
        """After the farewell nobody is there to take it."""
        frame = codec.encode(message)
        with self._sending:
            if not self._parted:
                self._out.send(frame)

    def receive(self) -> ToClient:
        message = codec.decode_to_client(self._in.recv())
        if isinstance(message, Farewell):
            self._leave()
        return message

    def close(self, reason: str = CLOSED) -> None:
        with self._sending:
            if not self._parted:
                self._own.send(codec.encode(Farewell(reason)))

    def _leave(self) -> None:
        """Nothing is received after a farewell: other engines may come, and sockets are not for ever."""
        with self._sending:
            self._parted = True
            for socket in (self._in, self._out, self._own):
                socket.close()
