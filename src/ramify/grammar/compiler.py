"""Compiles constraints off the loop: cached, in bounds, and stopped when they take too long.

    constraint --translate--> Lark --probe (child process, killed at the limit)--> compile (thread) --> Compiled

Every grammar is tried by a probe first, so what a thread compiles is known to be good and quick. There are two lanes:
the quick one gives a grammar a fraction of a second and hands what needs more to the patient one, so that a few hostile
grammars do not keep the others waiting.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import msgspec

from ramify.core.errors import InternalError, Overloaded, UserError
from ramify.grammar.constraint import Constraint, GrammarError, GrammarFault, decode
from ramify.grammar.library import Library
from ramify.grammar.matcher import Matcher
from ramify.grammar.prelude import Prelude
from ramify.grammar.probe import Probe, Stopped
from ramify.grammar.schema import explain
from ramify.grammar.style import FLEXIBLE, Style
from ramify.grammar.translate import translate
from ramify.grammar.vocabulary import Vocabulary

log = logging.getLogger(__name__)

QUICK = 0.25  # seconds that the quick lane gives a grammar
STRIKES = 3  # rows stuck in the library after which a grammar is refused


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` is the limit of one compilation. The cache holds `entries` grammars of `size` bytes together; at most
    `waiting` may be under way.
    """

    seconds: float = 2.0
    entries: int = 64
    size: int = 8 << 20
    waiting: int = 64
    style: Style = FLEXIBLE


@dataclass(slots=True)
class Compiled:
    """One constraint: under way, compiled, or refused. Written by the compiler's threads, `done` last.

    Its rows share what the library learns on the way, and the bound on that: who meets it calls `renew`.
    """

    body: bytes
    done: bool = False
    error: UserError | None = None
    warnings: list[str] = field(default_factory=list)  # what of a schema that was not strict is not enforced
    beginning: Matcher | None = None
    generation: int = 0
    is_stuck: bool = False  # a row is lost in the library, which holds what all rows of it share
    strikes: int = 0  # how often that happened to earlier copies of it
    afresh: Callable[[], Matcher] | None = None

    def matcher(self) -> Matcher:
        """A new row of it, at the beginning."""
        assert self.beginning is not None
        return self.beginning.clone()

    def renew(self, generation: int) -> bool:
        """Compile once more, which takes as long as the first time; False if somebody has since `generation`."""
        assert self.afresh is not None
        if self.generation != generation:
            return False
        self.beginning = self.afresh()
        self.generation += 1
        return True


class Compiler:
    """`load` gives the vocabulary, on a thread of the compiler and not before it is needed. `tell` is called on such a
    thread whenever something is done.
    """

    def __init__(
        self, load: Callable[[], Vocabulary], options: Options | None = None, tell: Callable[[], None] = lambda: None
    ) -> None:
        self.options = options or Options()
        self._load = load
        self._tell = tell
        self._changing = threading.Lock()
        self._loading = threading.Lock()
        self._cache: OrderedDict[bytes, Compiled] = OrderedDict()
        self._waiting = 0
        self._tools: _Tools | None = None
        self._lanes = [_Lane("quick"), _Lane("patient")]

    def request(self, body: bytes) -> Compiled:
        """An encoded constraint: from the cache, or under way from now on. Never waits."""
        key = hashlib.sha256(body).digest()
        with self._changing:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
            entry = Compiled(body)
            if self._waiting >= self.options.waiting:
                entry.error, entry.done = Overloaded("too many grammars are waiting to be compiled"), True
                return entry
            self._cache[key] = entry
            self._waiting += 1
            self._shrink()
        self._lanes[0].submit(lambda: self._work(entry, 0))
        return entry

    def replace(self, stuck: Compiled) -> Compiled:
        """Another copy of a grammar in which a row is stuck: the one that all who shared it get.

        Every row that gets stuck costs the others time, so one grammar may do that a few times only.
        """
        stuck.is_stuck = True
        with self._changing:
            entry = Compiled(stuck.body, strikes=stuck.strikes + 1)
            self._cache[hashlib.sha256(stuck.body).digest()] = entry
            self._shrink()
            if entry.strikes >= STRIKES:
                entry.error, entry.done = GrammarFault("finding out what may follow takes too long, again"), True
                return entry
            self._waiting += 1
        self._lanes[0].submit(lambda: self._work(entry, 0))
        return entry

    def warm(self) -> None:
        """Load the vocabulary and start the child now, in the background."""
        self.request(msgspec.msgpack.encode(Constraint("json_object")))

    def close(self) -> None:
        """End threads and children; what is under way is never done."""
        for lane in self._lanes:
            lane.close()

    def _shrink(self) -> None:
        """What was not asked for longest goes first; what is under way stays."""
        idle = [key for key, entry in self._cache.items() if entry.done]
        size = sum(len(entry.body) for entry in self._cache.values())
        while idle and (len(self._cache) > self.options.entries or size > self.options.size):
            size -= len(self._cache.pop(idle.pop(0)).body)

    # -- on a thread -------------------------------------------------------------------------------------------------

    def _work(self, entry: Compiled, lane: int) -> None:
        try:
            patient = lane == len(self._lanes) - 1
            seconds = self.options.seconds if patient else min(QUICK, self.options.seconds)
            if not self._compile(entry, self._lanes[lane], seconds):
                if not patient and seconds < self.options.seconds:
                    self._lanes[lane + 1].submit(lambda: self._work(entry, lane + 1))
                    return
                entry.error = self._too_slow(entry)
        except UserError as e:
            entry.error = e
        except Exception:  # (a bug of ours must not leave requests waiting for ever)
            log.exception("compiling a grammar failed")
            entry.error = InternalError("the grammar could not be compiled")
        entry.done = True
        with self._changing:
            self._waiting -= 1
        self._tell()

    def _compile(self, entry: Compiled, lane: _Lane, seconds: float) -> bool:
        """False where it took too long."""
        tools = self._get_tools()
        constraint = decode(entry.body)
        source = translate(constraint, tools.vocabulary.specials, self.options.style)
        try:
            wrong = lane.probe(tools.vocabulary).try_out(source.lark, seconds)
        except Stopped:
            return False
        if wrong:
            raise explain(wrong, constraint.kind, source.schema)
        prelude = Prelude(constraint.after, tools.vocabulary) if constraint.after else None
        entry.afresh = partial(tools.compile, source.lark, prelude)
        entry.beginning = entry.afresh()
        entry.warnings = entry.beginning.warnings
        if entry.warnings:
            log.warning("a %s that is not strict holds in part: %s", constraint.kind, "; ".join(entry.warnings)[:500])
        return True

    def _get_tools(self) -> _Tools:
        with self._loading:
            if self._tools is None:
                vocabulary = self._load()
                self._tools = _Tools(vocabulary, Library(vocabulary))
            return self._tools

    def _too_slow(self, entry: Compiled) -> GrammarError:
        constraint = decode(entry.body)
        assert self._tools is not None
        source = translate(constraint, self._tools.vocabulary.specials, self.options.style)
        return GrammarError(
            f"{constraint.kind}: compiling took more than {self.options.seconds:g} s or too much memory and was stopped"
            + (f"; {source.heaviest}" if source.heaviest else ""),
            param=constraint.kind,
            construct=source.heaviest or constraint.kind,
        )


@dataclass(frozen=True, slots=True)
class _Tools:
    vocabulary: Vocabulary
    library: Library

    def compile(self, lark: str, prelude: Prelude | None) -> Matcher:
        beginning = Matcher(self.library.compile(lark), self.vocabulary, prelude)
        beginning.look()
        return beginning


class _Lane:
    """A thread and the child that tries grammars for it."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"ramify-grammar-{name}")
        self._probe: Probe | None = None
        self._closed = False

    def submit(self, work: Callable[[], None]) -> None:
        if not self._closed:
            self._thread.submit(work)

    def probe(self, vocabulary: Vocabulary) -> Probe:
        if self._probe is None:
            self._probe = Probe(vocabulary)
        return self._probe

    def close(self) -> None:
        self._closed = True
        if self._probe is not None:
            self._probe.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._probe is not None:
            self._probe.close()
