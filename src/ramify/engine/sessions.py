"""Sessions: turns that go on from one another, so that a client sends what is new of a conversation and not all of it.

    session ── turn a ──┬── turn b ── turn d
                        └── turn c                  a turn is a request: its prompt and what it generated

A turn comes after another one, or at a beginning; with `replace`, whatever came after that other one before is given
up. Only tokens are kept here, each once, however many turns share it; that their keys and values are there still is
the prefix cache's business. A turn can be gone on from when it is over: when the engine has ended it, and, where text
may have ended it earlier, when the API worker has said where. (The semantics are SGLang's session control.)
"""

from __future__ import annotations

import logging
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum

from ramify.core.errors import BadRequest, Overloaded
from ramify.engine.waiting import NotYet
from ramify.schedule.request import Request
from ramify.wire.messages import Submit, Turn

log = logging.getLogger(__name__)

MAX_SESSIONS = 4096
MAX_TURNS = 4096  # of one session
MAX_TOKENS = 1 << 25  # of all sessions, four bytes each
DAY = 86_400.0
SWEEP = 1.0  # seconds between looks for sessions that nobody uses
LAST_WORD = 5.0  # seconds in which an API worker says where text ended a turn


class Stage(IntEnum):
    RUNNING = 0
    ENDED = 1  # by the engine; its text may have ended it earlier
    OVER = 2


class Node:
    """A turn: the first `shared` tokens of the turn before it, then its own. `prompt` is the length of its prompt."""

    __slots__ = ("after", "after_it", "origin", "own", "prompt", "rid", "shared", "stage")

    def __init__(self, submit: Submit, before: Node | None, shared: int) -> None:
        self.rid = submit.rid
        self.origin = submit.origin
        self.after = before
        self.after_it: dict[str, Node] = {}
        self.shared = shared
        self.prompt = len(submit.tokens)
        self.own = array("i", submit.tokens[shared:])
        self.stage = Stage.RUNNING

    def tokens(self) -> list[int]:
        """All of them, from the beginning of the conversation on."""
        pieces: list[array[int]] = []
        node, end = self, self.shared + len(self.own)
        while True:
            pieces.append(node.own[: max(end - node.shared, 0)])
            if node.after is None:
                return [token for piece in reversed(pieces) for token in piece]
            node, end = node.after, min(end, node.shared)

    def branch(self) -> Iterator[Node]:
        """This turn and all that come after it."""
        todo = [self]
        while todo:
            node = todo.pop()
            todo += node.after_it.values()
            yield node


class Session:
    """`capacity` in tokens; after `timeout` seconds of disuse it ends."""

    def __init__(self, name: str, capacity: int, timeout: float, now: float) -> None:
        self.name = name
        self.capacity = capacity
        self.timeout = timeout
        self.used_at = now
        self.turns: dict[str, Node] = {}
        self.held = 0  # tokens

    def turn(self, rid: str | None) -> Node | None:
        """The turn of that id; there is always a beginning to go on from."""
        if rid is None:
            return None
        if rid not in self.turns:
            raise BadRequest(f"session {self.name!r} has no turn {rid!r}", param="session_params")
        return self.turns[rid]

    def given_up(self, turn: Turn) -> list[Node]:
        """What goes when `turn` comes."""
        before = self.turn(turn.after)
        if not turn.replace:
            return []
        if before is None:
            return list(self.turns.values())
        return [node for later in before.after_it.values() for node in later.branch()]

    @property
    def is_active(self) -> bool:
        return any(node.stage is not Stage.OVER for node in self.turns.values())


class Sessions:
    """All open sessions. An observer of the scheduler: it learns from it what the turns became."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._active: dict[str, tuple[Session, Node]] = {}  # turns that are not over, by request
        self._swept_at = clock()
        self.held = 0  # tokens of all

    def __len__(self) -> int:
        return len(self._open)

    # -- orders ------------------------------------------------------------------------------------------------------

    def open(self, name: str | None, capacity: int, timeout: float | None) -> str:
        """A new session, which may hold `capacity` tokens; its name is made up where none is given."""
        self._sweep()
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise BadRequest("the capacity of a session should be a positive number", param="capacity_of_str_len")
        if name in self._open:
            raise BadRequest("Failed to open the session. Check if a session with the same id is still open.")
        if len(self._open) >= MAX_SESSIONS:
            raise Overloaded(f"{MAX_SESSIONS} sessions are open, which is as many as there can be")
        name = name or uuid.uuid4().hex
        self._open[name] = Session(name, capacity, DAY if timeout is None else timeout, self._clock())
        return name

    def close(self, name: str) -> bool:
        """Forget a session; what still runs of it goes on for whoever waits for it. False where there is none."""
        session = self._open.pop(name, None)
        if session is not None:
            self._drop(session, list(session.turns.values()))
        return session is not None

    def running(self, turn: Turn) -> str | None:
        """The request that has to be ended before `turn` can go on from it; raises `BadRequest` if it must not be."""
        node = self._get(turn.session).turn(turn.after)
        if node is None or node.stage is not Stage.RUNNING:
            return None
        if not turn.replace:
            raise BadRequest(f"the turn {node.rid!r} has not finished; replace would end it", param="session_params")
        return node.rid

    def prefix(self, turn: Turn, offset: int | None, drop_output: bool) -> list[int]:
        """The tokens that `turn` goes on from.

        `drop_output` leaves out what the turn before generated. Then `offset`, unless it is 0, cuts: as many tokens
        from the front if positive, less so many at the end if negative. Raises `NotYet` until that turn is over.
        """
        session = self._get(turn.session)
        session.used_at = self._clock()
        node = session.turn(turn.after)
        if node is None:
            return []
        if node.stage is not Stage.OVER:
            raise NotYet(f"the end of the turn {node.rid!r} is not known", LAST_WORD)
        tokens = node.tokens()
        if drop_output:
            tokens = tokens[: node.prompt]
        return tokens[:offset] if offset else tokens

    # -- requests ----------------------------------------------------------------------------------------------------

    def check(self, submit: Submit) -> None:
        """Raises `UserError` where the session cannot take this request."""
        turn = submit.turn
        assert turn is not None
        session = self._get(turn.session)
        before = session.turn(turn.after)
        if before is not None and before.stage is not Stage.OVER:
            raise BadRequest(f"the turn {before.rid!r} has not finished", param="session_params")
        leaving = session.given_up(turn)
        namesake = session.turns.get(submit.rid)
        if submit.rid in self._active or (namesake is not None and namesake not in leaving):
            raise BadRequest(f"there is a turn {submit.rid!r} already", param="rid")
        more = len(submit.tokens) - _shared(before, submit.tokens) - sum(len(node.own) for node in leaving)
        if session.held + more > session.capacity or len(session.turns) - len(leaving) >= MAX_TURNS:
            raise BadRequest(
                f"session {session.name!r} is full: it holds {session.held} tokens in {len(session.turns)} turns, and "
                f"may hold {session.capacity} in {MAX_TURNS}",
                param="session_params",
                code="session_full",
            )
        if self.held + more > MAX_TOKENS:
            raise Overloaded(f"open sessions hold {MAX_TOKENS} tokens, which is as many as they can")

    def begin(self, submit: Submit) -> list[str]:
        """The request was taken. Returns those that have to end, because their turns were given up for it."""
        turn = submit.turn
        assert turn is not None
        session = self._get(turn.session)
        leaving = session.given_up(turn)
        ended = [node.rid for node in leaving if node.stage is Stage.RUNNING]
        self._drop(session, leaving)
        before = session.turn(turn.after)
        node = Node(submit, before, _shared(before, submit.tokens))
        if before is not None:
            before.after_it[node.rid] = node
        session.turns[node.rid] = node
        session.used_at = self._clock()
        self._count(session, len(node.own))
        self._active[node.rid] = session, node
        return ended

    def last_word(self, rid: str, keep: int) -> None:
        """Of a turn's output, the first `keep` tokens are what there is."""
        session, node = self._active.get(rid, (None, None))
        if session is None or node is None or node.stage is not Stage.ENDED:
            return
        over = node.shared + len(node.own) - (node.prompt + keep)
        if over > 0:
            del node.own[len(node.own) - over :]
            self._count(session, -over)
        self._end(session, node)

    def forget(self, origin: int) -> None:
        """An API worker is no more: turns whose text only it could have ended have no end, and are none."""
        for session, node in list(self._active.values()):
            if node.origin == origin:
                self._drop(session, [node])

    # -- observer of the scheduler -----------------------------------------------------------------------------------

    def admitted(self, request: Request) -> None: ...

    def first_token(self, request: Request) -> None: ...

    def preempted(self, request: Request) -> None: ...

    def finished(self, request: Request) -> None:
        """A turn that failed is none: its client was told that it failed."""
        session, node = self._active.get(request.id, (None, None))
        if session is None or node is None:
            return
        assert request.finish is not None
        if request.finish.is_error:
            self._drop(session, [node])
            return
        self._count(session, len(request.tokens) - node.shared - len(node.own))
        node.own = array("i", request.tokens[node.shared :])
        node.stage = Stage.ENDED
        if not request.params.has_text_stops:
            self._end(session, node)

    # ------------------------------------------------------------------------------------------------------------------

    def _get(self, name: str) -> Session:
        session = self._open.get(name)
        if session is not None and self._is_stale(session):
            self.close(name)
            session = None
        if session is None:
            raise BadRequest(
                f"session {name!r} does not exist: it was not opened, was closed or has timed out",
                param="session_params",
            )
        return session

    def _is_stale(self, session: Session) -> bool:
        return self._clock() - session.used_at > session.timeout and not session.is_active

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept_at < SWEEP and len(self._open) < MAX_SESSIONS:
            return
        self._swept_at = now
        for name in [name for name, session in self._open.items() if self._is_stale(session)]:
            log.info("session %s was not used for %g s and is closed", name, self._open[name].timeout)
            self.close(name)

    def _end(self, session: Session, node: Node) -> None:
        node.stage = Stage.OVER
        session.used_at = self._clock()
        del self._active[node.rid]

    def _drop(self, session: Session, nodes: Iterable[Node]) -> None:
        for node in nodes:
            del session.turns[node.rid]
            self._active.pop(node.rid, None)
            self._count(session, -len(node.own))
            if node.after is not None:
                node.after.after_it.pop(node.rid, None)

    def _count(self, session: Session, tokens: int) -> None:
        session.held += tokens
        self.held += tokens


def _shared(before: Node | None, tokens: list[int]) -> int:
    """How many of the first tokens are those of the turn before."""
    if before is None:
        return 0
    known = before.tokens()
    most = min(len(known), len(tokens))
    if known[:most] == tokens[:most]:
        return most
    return next(at for at in range(most) if known[at] != tokens[at])
