"""A child process that tries grammars, so that one that takes too long, eats memory or crashes the library ends it
and nothing else.

The child compiles against single bytes, takes a few steps, and answers with what is wrong, or nothing. It has a timer
and a memory limit of its own, and ends when its parent does: its input is at an end then.
"""

from __future__ import annotations

import random
import resource
import selectors
import signal
import struct
import subprocess
import sys
import threading
from typing import IO

import msgspec
import numpy as np

from ramify.grammar.constraint import GrammarError, GrammarFault
from ramify.grammar.library import Library, Session
from ramify.grammar.vocabulary import Vocabulary, of_bytes

LENGTH = struct.Struct("<I")
MEMORY = 1 << 30  # bytes of address space
START = 10.0  # seconds a child may take to start and say so
GRACE = 0.5  # seconds to wait for a child past its own timer
STEPS = 24


class Hello(msgspec.Struct, array_like=True):
    """What a child needs to know of the vocabulary."""

    size: int
    specials: dict[str, int]
    eos: tuple[int, ...]


class Task(msgspec.Struct, array_like=True):
    lark: str
    seconds: float


class Stopped(Exception):
    """The work was stopped: it took too long, or the process that did it died."""


class ProbeError(Exception):
    """The child does not start: that is no grammar's fault."""


# -- the parent's side -----------------------------------------------------------------------------------------------


class Probe:
    """One thread uses it, and starts the child when it first needs one; `kill` may come from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._hello = Hello(vocabulary.size, dict(vocabulary.specials), vocabulary.eos)
        self._child: subprocess.Popen[bytes] | None = None
        self._greeted = False  # the child has said that it is ready
        self._changing = threading.Lock()
        self._killed = False

    def try_out(self, lark: str, seconds: float) -> str:
        """What is wrong with a grammar; empty if nothing is. Raises `Stopped` after `seconds`, and `ProbeError`.

        A child that was stopped has a successor at once, which gets ready while nobody waits.
        """
        try:
            child = self._ready()
            _write(child.stdin, Task(lark, seconds))
            return _answer(child, seconds + GRACE).decode()
        except (Stopped, BrokenPipeError):
            self._end()
            self._start()
            raise Stopped from None

    def kill(self) -> None:
        """End the child now and start no other."""
        with self._changing:
            self._killed = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        self.kill()
        self._end()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self._end()
        if self._child is None:
            self._start()
        if self._child is None:
            raise Stopped
        if not self._greeted:
            self._greet(self._child)
        return self._child

    def _greet(self, child: subprocess.Popen[bytes]) -> None:
        try:
            _answer(child, START)
        except Stopped:
            if self._killed:
                raise
            self._end()
            raise ProbeError(f"the process that tries grammars ended with {child.returncode}") from None
        self._greeted = True

    def _start(self) -> None:
        with self._changing:
            if self._killed:
                return
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", "from ramify.grammar.probe import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is for the parent, which will close this
            )
        self._greeted = False
        _write(self._child.stdin, self._hello)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what was buffered for a dead child


def _answer(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            raise Stopped
    return _read(child.stdout)


def _write(to: IO[bytes] | None, message: Hello | Task | bytes) -> None:
    assert to is not None
    body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
    to.write(LENGTH.pack(len(body)) + body)
    to.flush()


def _read(source: IO[bytes]) -> bytes:
    """A frame, written at once; raises `Stopped` at the end of the stream."""
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise Stopped
    (size,) = LENGTH.unpack(head)
    return source.read(size)


# -- the child's side ------------------------------------------------------------------------------------------------


def serve() -> None:
    """What the child does until its input ends. Its alarm has no handler: it ends the process wherever it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    try:
        hello = msgspec.msgpack.decode(_read(source), type=Hello)
        library = Library(of_bytes(hello.size, hello.specials, hello.eos))
        _write(sink, b"")
        while True:
            task = msgspec.msgpack.decode(_read(source), type=Task)
            signal.setitimer(signal.ITIMER_REAL, task.seconds)
            answer = _try(library, task.lark)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write(sink, answer.encode())
    except Stopped:
        return


def _try(library: Library, lark: str) -> str:
    try:
        _walk(library.compile(lark), library.words)
    except (GrammarError, GrammarFault) as e:
        return e.message
    return ""


def _walk(session: Session, words: int) -> None:
    """A few steps at random: some grammars are only too much once they are under way."""
    rnd, row = random.Random(0), np.zeros(words, np.int32)
    for _ in range(STEPS):
        session.mask(row)
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
        session.take(int(rnd.choice(allowed)))
        if session.must_stop:
            return
