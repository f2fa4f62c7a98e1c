"""A peer as a child process: asked over pipes, under a time limit, and stopped while others are measured."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any


class DidNotFinish(Exception):
    """No answer in time, or the process ended. The text says which."""


class Child:
    """Loads at once; raises DidNotFinish if that takes more than `limit` seconds."""

    def __init__(self, command: list[str], log: IO[str], limit: float, env: dict[str, str]) -> None:
        begin = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).parent,
            env={**os.environ, **env},
            start_new_session=True,
        )
        self._unread = b""
        self.versions: dict[str, str] = self._answer(limit)["ready"]
        self.load_seconds = time.monotonic() - begin
        self.pause()

    def ask(self, limit: float, **message: Any) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as e:
            self.kill()
            raise DidNotFinish("the process ended") from e
        return self._answer(limit)

    def pause(self) -> None:
        """No thread of it runs until it is asked again: some runtimes spin between two requests."""
        self._signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(OSError):  # what it never read
            self.process.stdin.close()

    def memory(self) -> int:
        """Proportional set size of the process in bytes."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _answer(self, limit: float) -> dict[str, Any]:
        """The next line. Whoever gives none in time is killed."""
        out, until = self.process.stdout.fileno(), time.monotonic() + limit
        while b"\n" not in self._unread:
            ready, _, _ = select.select([out], [], [], max(0.0, until - time.monotonic()))
            data = os.read(out, 1 << 20) if ready else b""
            if not data:
                self.kill()
                raise DidNotFinish("the process ended" if ready else f"no answer in {limit:.0f} s")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)
