"""The engine's loop: decide, launch, learn, reply. One loop, whatever the depth.

    depth 0    plan 1 - run 1 - commit 1 - plan 2 - run 2 - commit 2
    depth 1    plan 1 - plan 2 (run 1) - commit 1 - plan 3 (run 2) - commit 2 ...
    depth N    up to N steps are launched before the oldest is learned

Sampling of a step is enqueued after the commit of the step before it, so that what constrains it is fresh.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ramify.core.errors import DeviceLostError, InternalError, UserError
from ramify.core.finish import Finish
from ramify.schedule.scheduler import Scheduler
from ramify.wire.channel import EngineEnd
from ramify.wire.masks import Masks
from ramify.wire.messages import Abort, Answer, Control, Replies, Reply, Submit, ToEngine
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult

log = logging.getLogger(__name__)

GATED_POLL = 0.1  # seconds between looks at a queue that gates hold back while nothing runs and nobody wakes the loop


class Pending(Protocol):
    def wait(self) -> StepResult:
        """The result of a step, or what it raised."""


class Executor(Protocol):
    """Obeys plans, in the order they are launched."""

    def launch(self, plan: Plan) -> None:
        """Start the forward pass; returns before it is done."""

    def sample(self, plan: Plan, masks: Masks | None) -> Pending:
        """Enqueue sampling of the step launched last, from allowed tokens only where rows have a mask."""

    def drain(self) -> None:
        """After an error: wait until nothing runs, and forget every step whose result was not asked for."""

    def close(self) -> None: ...


class Meter(Protocol):
    """Is told of every step; keeps no more than numbers."""

    def launched(self, plan: Plan) -> None: ...
    def settled(self, plan: Plan, replies: Sequence[Reply]) -> None: ...
    def idle(self) -> None: ...


class Controller(Protocol):
    """Answers questions and carries out orders."""

    def handle(self, loop: Loop, control: Control) -> None: ...

    def submit(self, loop: Loop, submit: Submit) -> None:
        """Give a request to the scheduler; raises `UserError` where it is refused."""

    def last_word(self, rid: str, keep: int) -> None:
        """The text of a request has ended it after `keep` tokens, whether or not the engine had ended it before."""

    def tick(self, loop: Loop) -> None:
        """Once per step."""

    def patience(self) -> float | None:
        """Seconds after which `tick` is due although nothing happens; None: never."""


class NoController:
    def handle(self, loop: Loop, control: Control) -> None:
        loop.channel.send(control.origin, Answer(control.ticket, error="nothing is controlled here", status=501))

    def submit(self, loop: Loop, submit: Submit) -> None:
        loop.scheduler.submit(submit)

    def last_word(self, rid: str, keep: int) -> None: ...

    def tick(self, loop: Loop) -> None: ...

    def patience(self) -> float | None:
        return None


class NoMeter:
    def launched(self, plan: Plan) -> None: ...
    def settled(self, plan: Plan, replies: Sequence[Reply]) -> None: ...
    def idle(self) -> None: ...


@dataclass(slots=True)
class Flight:
    """A step on its way: launched, and once `pending` is there, sampled."""

    plan: Plan
    pending: Pending | None = None


class Loop:
    """Turns messages into replies, until `stopping` is set."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        channel: EngineEnd,
        *,
        depth: int = 1,
        control: Controller | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.channel = channel
        self.depth = depth
        self.flying: deque[Flight] = deque()
        self.stopping = False
        self.paused = False
        self._control = control or NoController()
        self._meter = meter or NoMeter()
        self._stuck = True  # the last step planned nothing and learned nothing
        self._checked = True  # the books were proved since the last request came or went

    def run(self) -> None:
        while not self.stopping:
            self.step()

    def close(self) -> None:
        """After `run`: leave no thread, no process and no socket behind."""
        self.executor.close()
        self.scheduler.guides.close()
        self.scheduler.adapters.close()
        self.channel.close()

    @property
    def is_idle(self) -> bool:
        """Nothing waits, runs or flies."""
        return self.scheduler.is_idle and not self.flying

    def pause(self) -> None:
        """Plan nothing until `paused` is taken back. What flies is learned first: nothing is computed after this."""
        while self.flying:
            self.settle()
        self.paused = True

    def step(self) -> None:
        self.take_messages()
        plan = None if self.paused else self.scheduler.plan()
        self.reply(self.scheduler.take_news())
        self._stuck = not plan and not self.flying
        if plan:
            self.launch(plan)
        if len(self.flying) > max(self.depth, 1) or not plan:
            self.settle()
        self.sample()
        if self.depth == 0:
            self.settle()
        self._control.tick(self)

    # -- messages ----------------------------------------------------------------------------------------------------

    def take_messages(self) -> None:
        """What came in; blocks when there is nothing to do, so that idling costs no CPU."""
        timeout: float | None = 0
        if self._stuck:
            timeout = None if self.scheduler.is_idle or self.paused else GATED_POLL
        if timeout is None:
            if self.scheduler.is_idle:
                self._prove_books()
            self._meter.idle()
            timeout = self._control.patience()
        for message in self.channel.take(timeout):
            self.handle(message)

    def handle(self, message: ToEngine) -> None:
        self._stuck = False
        if isinstance(message, Submit):
            self._checked = False
            self._submit(message)
        elif isinstance(message, Abort):
            self._checked = False
            reply = self.scheduler.abort(message.rid, keep=message.keep, finish=message.finish)
            if message.keep is not None:
                self._control.last_word(message.rid, message.keep)
            elif reply is not None:
                self.reply([reply])
        else:
            self._control.handle(self, message)

    def _submit(self, submit: Submit) -> None:
        try:
            self._control.submit(self, submit)
        except UserError as e:
            refused = Finish.abort(e.message, e.status, e.code)
            self.reply([Reply(submit.rid, submit.origin, [], refused)])

    def reply(self, replies: Sequence[Reply]) -> None:
        """One message for each API worker that has news."""
        if not replies:
            return
        by_origin: dict[int, list[Reply]] = defaultdict(list)
        for reply in replies:
            by_origin[reply.origin].append(reply)
            if reply.finish is not None and reply.finish.status == InternalError.status:
                log.error("request %s failed: %s", reply.rid, reply.finish.message)
        for origin, items in by_origin.items():
            self.channel.send(origin, Replies(items))

    # -- steps -------------------------------------------------------------------------------------------------------

    def launch(self, plan: Plan) -> None:
        try:
            self.executor.launch(plan)
        except Exception as e:  # noqa: BLE001  (any failure of a step is the requests' and not the server's)
            while self.flying:
                self.settle()
            self.recover([plan], e)
            return
        self.flying.append(Flight(plan))
        self._meter.launched(plan)

    def sample(self) -> None:
        """Enqueue sampling of what is launched; recovery may have swept it away."""
        if self.flying and self.flying[-1].pending is None:
            flight = self.flying[-1]
            flight.pending = self.executor.sample(flight.plan, self.masks(flight.plan))

    def masks(self, plan: Plan) -> Masks | None:
        """Which tokens this step may sample, worked out while its forward pass runs. A request for which that cannot
        be said ends or waits, and it alone.
        """
        guided = self.scheduler.guided(plan)
        if not guided:
            return None
        allowed = self.scheduler.guides.masks(guided)
        ended = [self.scheduler.abort(rid, finish=finish) for rid, finish in allowed.ended.items()]
        self.scheduler.put_back(allowed.again)
        self.reply([reply for reply in ended if reply is not None])
        return allowed.masks

    def settle(self) -> None:
        """Learn the oldest result."""
        if not self.flying:
            return
        flight = self.flying.popleft()
        assert flight.pending is not None, "a step is settled before it was sampled"
        try:
            result = flight.pending.wait()
        except Exception as e:  # noqa: BLE001  (as in `launch`)
            self.recover([flight.plan, *(later.plan for later in self.flying)], e)
            return
        replies = self.scheduler.commit(flight.plan, result)
        self._meter.settled(flight.plan, replies)
        self.reply(replies)

    def recover(self, plans: list[Plan], error: Exception) -> None:
        """A step raised. Nothing is in flight after this, and its requests will be tried one by one. Where nothing
        can be computed any more, the loop ends.
        """
        if isinstance(error, DeviceLostError):
            raise error
        rids = ", ".join(request.id for request in self.scheduler.requests_of(plans[0]))
        log.error("step %d failed, of requests %s: %s", plans[0].step, rids, error, exc_info=error)
        self.executor.drain()
        self.flying.clear()
        self.reply(self.scheduler.retract(plans))

    def _prove_books(self) -> None:
        """At idle every page must be accounted for. If not, say so, start over with an empty cache, and go on."""
        if self._checked:
            return
        self._checked = True
        wrong = self.scheduler.ledger.check()
        if wrong or self.scheduler.ledger.used:
            held = self.scheduler.ledger.used
            log.error("page accounting is wrong at idle (%d pages held by nobody), rebuilding: %s", held, wrong[:20])
            self.scheduler.ledger.rebuild()
