"""What the parent gives its child processes: everything resolved, in one file of a folder only they can enter.

Children also inherit three pipe ends. The *lifeline* closes when the parent is gone, however it went: then a child
goes too. The *pulse* closes when the engine is gone. On the *news* pipe a child says one line when it is ready.
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

FILE = "handover"


@dataclass(frozen=True)
class Handover:
    """`workers` API workers; the listening socket is inherited as file descriptor `listener`."""

    resolved: Resolved
    workers: int
    listener: int
    lifeline: int
    pulse: int
    news: int


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


def watch(pipe: int, gone: Callable[[], None], name: str) -> None:
    """Call `gone` on a thread of its own when the other end of a pipe is closed."""

    def wait() -> None:
        while os.read(pipe, 64):
            pass
        gone()

    threading.Thread(target=wait, name=name, daemon=True).start()


def follow_parent(handover: Handover) -> None:
    """Go at once when the parent is gone: nobody is left to drain for."""
    watch(handover.lifeline, lambda: os._exit(1), "ramify-lifeline")


STOP = signal.SIGUSR1


def leave_signals_to_parent() -> None:
    """Ctrl-C and a supervisor's SIGTERM reach every process of the group, and only the parent knows who stops when: it
    sends `STOP`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def tell(handover: Handover, line: str) -> None:
    """One line of news for the parent; short enough to be written at once."""
    os.write(handover.news, f"{line}\n".encode()[:512])
