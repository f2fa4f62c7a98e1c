"""What the parent gives its child processes: everything resolved, in one file of a folder only they can enter.

    FOLDER/handover             a `Handover`
    FOLDER/adapters-<model>.json  which adapters its engine has, for one that is started again
    FOLDER/<model>.<start>/     the sockets between an engine, of the <start>th start, and the API workers

Children also inherit the ends of two pipes. The *lifeline* closes when the parent is gone, however it went: then a
child goes too. On the *news* pipe they tell the parent what `wire.notices` has. API workers have a third, the *orders*,
on which the parent tells each of them about the engines.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ramify.config.resolve import Resolved
from ramify.wire.notices import EngineNews, Lines, ToParent, line_of, to_worker

FILE = "handover"


@dataclass(frozen=True)
class Handover:
    """All models, the first being the one that is meant where none is named; `workers` API workers; the listening
    socket is inherited as file descriptor `listener`.
    """

    models: tuple[Resolved, ...]
    workers: int
    listener: int
    lifeline: int
    news: int

    @property
    def several(self) -> bool:
        return len(self.models) > 1


def write(folder: Path, handover: Handover) -> None:
    """For the children, with everything that may be secret readable by the owner alone."""
    path = folder / FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
        f.write(msgspec.msgpack.encode(handover, enc_hook=_encode))


def read(folder: Path) -> Handover:
    return msgspec.msgpack.decode((folder / FILE).read_bytes(), type=Handover, dec_hook=_decode)


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not handed over")


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"{kind.__name__} is not handed over")


def sockets(folder: Path, model: int, start: int) -> Path:
    """Where an engine and the API workers meet. Every start has a folder of its own, so that nothing which was sent to
    an engine that is gone can reach the next.
    """
    return folder / f"{model}.{start}"


def follow_parent(handover: Handover) -> None:
    """Go at once when the parent is gone: nobody is left to drain for."""

    def wait() -> None:
        while os.read(handover.lifeline, 64):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="ramify-lifeline", daemon=True).start()


def hear_of_engines(orders: int, hear: Callable[[EngineNews], None]) -> None:
    """Call `hear` on a thread of its own with all that the parent tells."""

    def read_on() -> None:
        lines = Lines()
        while (found := lines.read(orders)) is not None:
            for line in found:
                hear(to_worker(line))

    threading.Thread(target=read_on, name="ramify-orders", daemon=True).start()


STOP = signal.SIGUSR1


def leave_signals_to_parent() -> None:
    """Ctrl-C and a supervisor's SIGTERM reach every process of the group, and only the parent knows who stops when: it
    sends `STOP`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def tell(handover: Handover, notice: ToParent) -> None:
    """Something for the parent to know; from any thread."""
    os.write(handover.news, line_of(notice))
