"""Who runs next. One scheduler per replica; it decides, and nobody else does.

    submit ──> waiting ──admit──> running ──commit──> finished
                  ^                  │
                  └─── preempt ──────┘      pages ran out, a higher priority, or a step that raised

`plan` may run ahead of what is known: it works on upper bounds, and `commit` corrects them when a step's result is
in. `running` is kept in order of precedence (priority, then arrival): the last of it is preempted first, and the first
can always go on, because what could never fit alone was refused when it came.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ramify.cache.ledger import Ledger
from ramify.cache.prefix import Match
from ramify.core.errors import BadRequest, Overloaded, UserError
from ramify.core.finish import Finish, internal_error
from ramify.schedule.adapter import Adapters, NoAdapters
from ramify.schedule.budget import Reserve, StepBudget
from ramify.schedule.drafter import Drafter, NoDrafter
from ramify.schedule.gate import FollowTheLeader, Gate, Refuse, Wait
from ramify.schedule.guide import FREE, Guided, Guides, NoGuides
from ramify.schedule.mode import ONE_MODE, Modes
from ramify.schedule.policy import Fcfs, Policy
from ramify.schedule.request import Request, Status
from ramify.wire.messages import Reply, Submit
from ramify.wire.plan import Grant, Opened, PageCopy, Plan, Row
from ramify.wire.result import StepResult


class Observer(Protocol):
    """Is told what happens to requests, for metrics; must not change them."""

    def admitted(self, request: Request) -> None: ...
    def first_token(self, request: Request) -> None: ...
    def preempted(self, request: Request) -> None: ...
    def finished(self, request: Request) -> None: ...


class NoObserver:
    def admitted(self, request: Request) -> None: ...
    def first_token(self, request: Request) -> None: ...
    def preempted(self, request: Request) -> None: ...
    def finished(self, request: Request) -> None: ...


class Observers:
    """Several, told in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def admitted(self, request: Request) -> None:
        for observer in self._observers:
            observer.admitted(request)

    def first_token(self, request: Request) -> None:
        for observer in self._observers:
            observer.first_token(request)

    def preempted(self, request: Request) -> None:
        for observer in self._observers:
            observer.preempted(request)

    def finished(self, request: Request) -> None:
        for observer in self._observers:
            observer.finished(request)


@dataclass(slots=True)
class Counts:
    """Sums since the start, for metrics and the throughput line."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


@dataclass(slots=True)
class _Draft:
    """A plan in the making."""

    step: int
    allowance: int  # prompt tokens that still fit
    rows: list[Row] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    copies: list[PageCopy] = field(default_factory=list)
    deferred: list[Request] = field(default_factory=list)  # prompts that let somebody more important go first


def _precedence(request: Request) -> tuple[int, int]:
    return (-request.priority, request.order)


class Scheduler:
    """Requests in, plans out, results in, replies out.

    `eos_ids` end any request that does not ignore them. `clock` gives seconds and is only looked at for metrics.
    """

    SOLO_CHUNK = 64  # tokens of a step that retries a request after a failure
    VECTORS = 1 << 30  # bytes of input vectors that requests may hold together
    LINGER = 5.0  # seconds to wait for the last word on a request that its text may have ended

    def __init__(
        self,
        ledger: Ledger,
        budget: StepBudget,
        *,
        eos_ids: Iterable[int] = (),
        policy: Policy | None = None,
        gates: Sequence[Gate] = (),
        drafter: Drafter | None = None,
        guides: Guides | None = None,
        adapters: Adapters | None = None,
        modes: Modes = ONE_MODE,
        guided_ahead: int = 1,
        max_queued: int | None = None,
        conservativeness: float = 1.0,
        preempt_above: int = 0,
        observer: Observer | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        seed: int = 0,
    ) -> None:
        self.ledger = ledger
        self.budget = budget
        self.eos_ids = frozenset(eos_ids)
        self.policy = policy or Fcfs()
        self.gates: list[Gate] = [*([FollowTheLeader(self, ledger)] if ledger.reuse else []), *gates]
        self.drafter = drafter or NoDrafter()
        self.guides = guides or NoGuides()
        self.adapters = adapters or NoAdapters()
        self.modes = modes
        self.guided_ahead = guided_ahead  # steps that a guided request may have in flight when it is planned
        self.max_queued = max_queued
        self.preempt_above = preempt_above
        self.observer = observer or NoObserver()
        self.clock = clock
        self.counts = Counts()
        self.reserve = Reserve(conservativeness)
        self.waiting: list[Request] = []  # sorted by precedence
        self.running: list[Request] = []  # likewise
        self.requests: dict[str, Request] = {}  # by id: waiting and running
        self.step = 0
        self._slots: list[Request | None] = [None] * budget.rows
        self._free_slots = list(range(budget.rows - 1, -1, -1))
        self._closed: list[int] = []
        self._epochs = 0
        self._arrivals = 0
        self._lots = random.Random(seed)
        self._short_for: Request | None = None  # could not be admitted for want of pages
        self._lingering: dict[str, Request] = {}  # ended by token, but their text may yet have ended them earlier
        self._suspects: set[Request] = set()  # were in a step that raised
        self._news: list[Reply] = []  # of requests that ended while a plan was made

    # -- requests come and go ----------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return not self.requests and not self._lingering

    @property
    def holds_pages(self) -> bool:
        """True while any request has a lease."""
        return bool(self.running or self._lingering)

    @property
    def capacity(self) -> int:
        """Tokens that fit the whole pool."""
        return self.ledger.total * self.ledger.page_size

    def submit(self, submit: Submit) -> Request:
        """Queue a request; raises `UserError` if it is refused."""
        if submit.rid in self.requests or submit.rid in self._lingering:
            raise BadRequest(f"a request with the id {submit.rid!r} is already running", param="rid")
        if self.max_queued is not None and len(self.waiting) >= self.max_queued:
            raise Overloaded("The request queue is full.")
        if submit.vectors:
            self._check_room_for(len(submit.vectors))
        params = submit.params
        eos = frozenset() if params.ignore_eos else self.eos_ids
        request = Request(
            submit,
            order=self._arrivals,
            max_new=self._fit(submit),
            stop_ids=eos.union(params.stop_token_ids or ()),
            lot=self._lots.random(),
            guide=self.guides.guide(submit),
            adapter=self.adapters.adapter(submit),
            modes=self.modes,
        )
        self._arrivals += 1
        self.requests[request.id] = request
        insort(self.waiting, request, key=_precedence)
        return request

    def _check_room_for(self, vectors: int) -> None:
        """Tokens are small, and their requests are counted; vectors are not."""
        if vectors + sum(len(request.vectors) for request in self.requests.values()) > self.VECTORS:
            raise Overloaded("The vectors of the requests that wait and run are too large together.")

    def _fit(self, submit: Submit) -> int:
        """The number of tokens it may write, given that it must fit the pool alone (the last needs no page)."""
        prompt, room = len(submit.tokens), self.capacity - len(submit.tokens) + 1
        if prompt == 0:
            raise BadRequest("the prompt is empty", param="input_ids")
        if self.budget.whole and prompt > self.budget.tokens:
            raise BadRequest(f"a text of {prompt} tokens is longer than a step of {self.budget.tokens}")
        if room < 1 or (submit.max_new_tokens > room and not submit.may_shorten):
            raise BadRequest(
                f"the request needs {prompt + submit.max_new_tokens} tokens of KV cache ({prompt} of the prompt and "
                f"{submit.max_new_tokens} to generate) and the server has {self.capacity}",
                code="kv_cache_too_small",
            )
        return min(submit.max_new_tokens, room)

    def abort(self, rid: str, *, keep: int | None = None, finish: Finish | None = None) -> Reply | None:
        """End a request now, at any point of its life. Returns its last reply; None if there is no such request.

        `keep` cuts its output to that many tokens first, as if the rest had never been. A request with text stops gets
        such a last word even after it has ended here: until then nothing of its output is shared.
        """
        if rid in self._lingering:
            self._settle_text(self._lingering.pop(rid), keep)
            return None
        request = self.requests.get(rid)
        if request is None:
            return None
        if keep is not None:
            self._cut(request, request.prompt_len + keep)
            request.settled = True
        self._end(request, finish or Finish.abort())
        return request.take_reply()

    def forget(self, origin: int) -> None:
        """End every request of an API worker that is no more."""
        for request in (*self.requests.values(), *self._lingering.values()):
            if request.origin == origin:
                self.abort(request.id)

    def _settle_text(self, request: Request, keep: int | None) -> None:
        """How much output a lingering request really had; without a word on it, none of it is shared."""
        self._cut(request, request.prompt_len + (keep or 0))
        request.settled = True
        self._close(request)

    def _expire_lingering(self, everybody: bool = False) -> None:
        """No last word came in time, or their pages are needed now."""
        now = self.clock()
        for rid, request in list(self._lingering.items()):
            if everybody or now - request.finished_at > self.LINGER:
                self._settle_text(self._lingering.pop(rid), None)

    def _cut(self, request: Request, tokens: int) -> None:
        del request.tokens[tokens:]
        request.computed = min(request.computed, len(request.tokens))

    # -- planning ----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """Decide one step, ahead of the results of those in flight. None where there is nothing to compute now."""
        generating = sum(r.max_new > 0 and r.planned >= len(r.tokens) - 1 for r in self.running)
        draft = _Draft(self.step + 1, self.budget.prompt_tokens(generating))
        if self._lingering:
            self._expire_lingering()
        if self._suspects:
            self._plan_suspects(draft)
        else:
            self._push_out()
            self._continue(draft)
            self._admit(draft)
            self._continue_deferred(draft)
        self.reserve.went_well()
        return self._issue(draft)

    def _issue(self, draft: _Draft) -> Plan | None:
        if not (draft.rows or draft.opened):
            return None
        self.step = draft.step
        self.counts.steps += 1
        closed, self._closed = self._closed, []
        moved, invariant = self.adapters.moved(), self.modes.of_step(self._slots[row.slot] for row in draft.rows)
        return Plan(draft.step, draft.rows, draft.opened, draft.grants, draft.copies, closed, moved, invariant)

    def _continue(self, draft: _Draft) -> None:
        """Rows for what runs, in order of precedence, so that only requests behind can be preempted for those ahead.

        The common case, one more token for a request that has the room, is written out: this is the hot loop.
        """
        page_size, running, rows, step = self.ledger.page_size, self.running, draft.rows, draft.step
        no_drafts = isinstance(self.drafter, NoDrafter)
        at = 0
        while at < len(running):
            request = running[at]
            at += 1
            planned, lease = request.planned, request.held
            if (
                len(request.tokens) - planned > 1
                or planned >= len(lease.pages) * page_size
                or lease.granted < len(lease.pages)
                or request.scored < request.prompt_len
                or request.guide is not FREE
                or not (no_drafts and request.max_new)
            ):
                self._continue_one(draft, request, at)
            elif len(request.tokens) - request.prompt_len + request.yielding < request.max_new:
                rows.append(Row(request.slot, request.epoch, 1, True))
                request.planned = planned + 1
                request.told += 1
                request.flying += 1
                request.yielding += 1
                request.last_step = step

    def _continue_one(self, draft: _Draft, request: Request, behind: int) -> None:
        """A row for one request, if there is anything left to compute. Those from index `behind` on may give way."""
        left = len(request.tokens) - request.planned
        if request.guide is not FREE and self._sits_out(request):
            return
        if request.planned < request.catch_up - 1 and self.waiting and self.waiting[0].priority > request.priority:
            draft.deferred.append(request)
            return
        if left > 1:
            self._add_chunk(draft, request, left, behind)
            return
        if request.max_new == 0:
            wanted = left == 1  # prefill only
        else:
            wanted = request.outputs + request.yielding < request.max_new
        if not wanted:
            return
        drafts = self._guess(request, left)
        positions = request.planned + 1 + len(drafts)
        if positions <= len(request.held.pages) * self.ledger.page_size or self._make_room(request, positions, behind):
            self._add_row(draft, request, 1 + len(drafts), request.max_new > 0, drafts)

    def _sits_out(self, request: Request) -> bool:
        """Whether a guided request waits for what is in flight. It has to where steps are planned too far ahead for its
        masks, and it had better where half of its tokens are forced: then what follows is known without a step.
        """
        forced = request.wants is None and 0 < request.outputs <= 2 * request.jumped
        return request.flying > (0 if forced else self.guided_ahead)

    def _continue_deferred(self, draft: _Draft) -> None:
        """Prompts under way whose turn came while somebody more important was waiting to be admitted."""
        for request in draft.deferred:
            left = len(request.tokens) - request.planned
            self._add_chunk(draft, request, left, len(self.running))

    def _guess(self, request: Request, left: int) -> tuple[int, ...]:
        """Drafts for a request whose every token is known; with a step in flight, what would they follow? None where a
        wrong one could not be taken back.
        """
        room = request.remaining - 1
        return self.drafter.propose(request, room) if left == 1 and room > 0 and self.ledger.rewinds else ()

    def _add_chunk(self, draft: _Draft, request: Request, left: int, behind: int) -> None:
        """The next piece of a prompt: as much as the step and the pages allow."""
        is_prompt = request.planned < request.catch_up
        count = left if self.budget.whole else min(left, draft.allowance if is_prompt else max(draft.allowance, 1))
        if count <= 0:
            return
        lease = request.held
        self.ledger.slide(lease, request.computed)
        within = (len(lease.pages) + self.ledger.room) * self.ledger.page_size - request.planned
        if within > 0:
            count = min(count, within)
            self.ledger.grow(lease, request.planned + count)
        elif not self._make_room(request, request.planned + count, behind):
            return
        draft.allowance -= count
        self._add_row(draft, request, count, count == left and request.max_new > 0)

    def _add_row(self, draft: _Draft, request: Request, count: int, sample: bool, drafts: tuple[int, ...] = ()) -> None:
        lease = request.held
        if lease.granted < len(lease.pages):
            draft.grants += [Grant(request.slot, group, pages) for group, pages in self.ledger.ungranted(lease)]
        first = request.planned + 1  # the first token this row could score
        score = -1
        if request.wants is not None and request.scored < request.prompt_len:
            score = max(request.wants.start, 1, first)
            score = score if score <= min(request.planned + count, request.prompt_len - 1) else -1
        known = request.planned + count - len(drafts)
        given = tuple(request.tokens[request.told : known])
        draft.rows.append(Row(request.slot, request.epoch, count, sample, drafts, score, given))
        request.told = max(request.told, known) + (1 + len(drafts) if sample else 0)
        request.planned += count
        request.flying += 1
        request.yielding += sample
        request.last_step = draft.step

    def _make_room(self, request: Request, positions: int, behind: int) -> bool:
        """Get pages for `positions`, preempting from the end those behind index `behind`. False: sit this step out."""
        self.ledger.slide(request.held, request.computed)
        while not self.ledger.grow(request.held, positions):
            if self._lingering:
                self._expire_lingering(everybody=True)
                continue
            if self.ledger.in_limbo or len(self.running) <= behind:
                return False  # pages are on their way, or those ahead will bring them
            self._preempt(self.running[-1])
            self.reserve.fell_short()
        return True

    def put_back(self, rids: Iterable[str]) -> None:
        """Back to the queue with these, as far as they run: they have to pass the gates again."""
        for rid in rids:
            request = self.requests.get(rid)
            if request is not None and request.status is Status.RUNNING:
                self._preempt(request)

    def preempt_all(self) -> None:
        """Everything that runs goes back to the queue, and its pages to the cache."""
        for request in list(self.running):
            self._preempt(request)

    def _preempt(self, request: Request) -> None:
        """Back to the queue: its committed tokens go to the cache, results in flight will find another epoch."""
        self._leave(request)
        request.status = Status.WAITING
        request.preempted += 1
        request.computed = request.planned = request.flying = request.yielding = request.expected = 0
        request.match = None
        self.counts.preemptions += 1
        self.observer.preempted(request)
        insort(self.waiting, request, key=_precedence)

    def _leave(self, request: Request) -> None:
        """Give up slot and pages."""
        self._vacate(request)
        self._close(request)

    def _close(self, request: Request) -> None:
        """Give up the pages; the cache takes what is committed and will not be undone."""
        lease, request.lease = request.held, None
        self.ledger.close(lease, request.key(request.shareable), request.shareable, request.last_step)

    def _vacate(self, request: Request) -> None:
        """Give up the slot."""
        self.running.remove(request)
        self._slots[request.slot] = None
        self._free_slots.append(request.slot)
        self._closed.append(request.slot)
        request.slot = -1

    # -- admitting ---------------------------------------------------------------------------------------------------

    def match(self, request: Request) -> Match:
        """What the cache has of a request, remembered until the cache changes."""
        version = self.ledger.cache.version
        if request.match is None or request.match_version != version:
            request.match = self.ledger.match(request.key(request.match_limit), request.salt)
            request.match_version = version
        return request.match

    def touch(self, match: Match) -> None:
        self.ledger.cache.touch(match)

    def _push_out(self) -> None:
        """Where the policy says so, the first that waits pushes out the last that runs, if that is less important."""
        if not (self.policy.preempts and self.waiting and self.running):
            return
        first, last = self.waiting[0], self.running[-1]
        if (not self._free_slots or self._short_for is first) and first.priority > last.priority + self.preempt_above:
            self._preempt(last)

    def _admit(self, draft: _Draft) -> None:
        self._short_for = None
        if not self._free_slots or not self.waiting or draft.allowance <= 0:
            return
        kept = self.reserve.tokens(self.running)
        for request in list(self.policy.order(self.waiting, self)):
            if not self._free_slots or not self._fits(request, draft):
                break
            verdict = self._ask_gates(request)
            if isinstance(verdict, Refuse):
                self._refuse(request, verdict.error)
            elif not isinstance(verdict, Wait) and self._begin(request):
                kept += self.reserve.tokens([request])
                if not self._open(draft, request, kept):
                    self._short_for = request
                    break

    def _fits(self, request: Request, draft: _Draft) -> bool:
        """Whether anything of it fits the step; all of it, where requests are computed whole."""
        return draft.allowance >= (len(request.tokens) if self.budget.whole else 1)

    def _begin(self, request: Request) -> bool:
        """Whatever has to come first comes with the prompt. False if that is all that there is to say."""
        if request.guide is not FREE and request.outputs == 0:
            self._jump([request])
        if request.finish is not None:
            self._news.append(request.take_reply())
        return request.finish is None

    def _ask_gates(self, request: Request) -> Wait | Refuse | None:
        for gate in self.gates:
            verdict = gate.verdict(request, self.running)
            if isinstance(verdict, Wait | Refuse):
                return verdict
        return None

    def _open(self, draft: _Draft, request: Request, kept: int) -> bool:
        """Start a request, if after its whole prompt `kept` tokens stay free; alone it may always start. Its adapter
        has a slot then, which the gates have seen to, unless nobody asked them.
        """
        ledger, adapter = self.ledger, self.adapters.enter(request.adapter, self.running)
        if adapter is None:
            return False
        must_fit = bool(self.running or ledger.in_limbo or self._lingering)
        match = ledger.match(request.key(request.match_limit), request.salt)
        lease, copies = ledger.open(match, len(request.tokens))
        if must_fit and not ledger.has_room(lease, len(request.tokens) + kept):
            ledger.cancel(lease, copies)
            self._expire_lingering(everybody=True)
            return False
        self._epochs += 1
        request.lease, request.epoch, request.slot = lease, self._epochs, self._free_slots.pop()
        request.status = Status.RUNNING
        request.computed = request.planned = lease.start
        request.catch_up = request.told = len(request.tokens)
        self._slots[request.slot] = request
        self.waiting.remove(request)
        insort(self.running, request, key=_precedence)
        draft.copies += copies
        draft.opened.append(
            Opened(
                request.slot,
                request.epoch,
                list(request.tokens),
                request.prompt_len,
                lease.start,
                request.params,
                request.seed,
                request.choice,
                request.wants,
                request.hidden_from,
                request.vectors,
                request.pooling,
                lease.read_until,
                adapter,
                request.invariant,
            )
        )
        self._note_admission(request)
        self._add_chunk(draft, request, len(request.tokens) - lease.start, len(self.running))
        return True

    def _note_admission(self, request: Request) -> None:
        if request.cached >= 0:
            return
        request.cached = request.computed
        request.started_at = self.clock()
        self.counts.prompt_tokens += request.prompt_len
        self.counts.cached_tokens += request.cached
        self.observer.admitted(request)

    def _refuse(self, request: Request, error: UserError) -> None:
        self._end(request, Finish.abort(error.message, error.status, error.code))
        self._news.append(request.take_reply())

    def take_news(self) -> list[Reply]:
        """Replies of requests that ended while a plan was made."""
        news, self._news = self._news, []
        return news

    # -- committing --------------------------------------------------------------------------------------------------

    def commit(self, plan: Plan, result: StepResult) -> list[Reply]:
        """Learn what a step gave. Rows of requests that have since ended or moved on are recognised and dropped."""
        self.ledger.copied(result.done_copies)
        self.counts.computed_tokens += plan.tokens
        replies, guided = [], []
        slots, special = self._slots, bool(result.faults or result.logprobs or result.hidden or self._suspects)
        for index, row in enumerate(plan.rows):
            request = slots[row.slot]
            if request is None or request.epoch != row.epoch:
                continue
            request.flying -= 1
            request.yielding -= row.sample
            if special or row.count > 1 or request.computed < request.catch_up or request.guide is not FREE:
                self._advance(request, row, result, index)
                if request.guide is not FREE and result.tokens[index] and request.finish is None:
                    guided.append(request)
                    continue
            else:
                request.computed += 1
                self._take_token(request, result.tokens[index][0])
            unsent = len(request.unsent)
            if request.finish is not None or 0 < request.stride <= unsent or self._begins(request, unsent):
                replies.append(request.take_reply())
        if guided:
            self._jump(guided)
            replies += [r.take_reply() for r in guided if self._has_news(r)]
        self.ledger.settle(plan.step)
        return replies

    def _has_news(self, request: Request) -> bool:
        unsent = len(request.unsent)
        return request.finish is not None or 0 < request.stride <= unsent or self._begins(request, unsent)

    def _begins(self, request: Request, unsent: int) -> bool:
        """A stream in long strides tells of its first token at once."""
        return request.stride > 1 and 0 < unsent == request.outputs

    def _advance(self, request: Request, row: Row, result: StepResult, index: int) -> None:
        """The result of a row of any kind."""
        if index in result.faults:
            self._end(request, Finish.abort(result.faults[index], 500, "model_fault"))
            return
        tokens = result.tokens[index]
        rejected = 1 + len(row.drafts) - len(tokens) if row.sample else 0
        was_catching_up = request.is_catching_up
        request.computed += row.count - rejected
        request.planned -= rejected
        self._suspects.discard(request)
        scored = result.logprobs.get(index)
        if scored is not None and scored.prompt is not None:
            request.add_prompt_logprobs(scored.prompt)
        told = result.hidden.get(index)
        if told is not None:
            request.add_hidden(told)
        request.pooled = result.pooled.get(index)
        if was_catching_up:
            known = min(request.shareable, request.catch_up)
            self.ledger.publish(request.held, request.key(known), known)
        request.told -= rejected
        taken = self._take(request, tokens)
        if scored is not None and scored.output is not None:
            request.add_output_logprobs(scored.output, taken)
        if request.max_new == 0 and request.computed >= request.prompt_len:
            self._end(request, Finish.at_length(0))

    def _take(self, request: Request, tokens: list[int]) -> int:
        """Append what was sampled, up to an end. Returns how many of these count."""
        taken = 0
        while taken < len(tokens) and request.finish is None:
            if request.expected:
                request.expected -= 1  # it was known, and stands among the tokens already
            else:
                self._take_token(request, tokens[taken])
            taken += 1
        return taken

    def _jump(self, requests: Sequence[Request]) -> None:
        """Take what guides leave no choice about, after one question for all of them. A token that was never sampled
        has no log probability.
        """
        jumping = [request for request in requests if request.wants is None and not request.expected]
        if jumping:
            self.guides.look(requests)
        for request in jumping:
            self._take_forced(request)

    def _take_forced(self, request: Request) -> None:
        """If a row is in flight, the first of what is forced is what it will yield."""
        forced = request.guide.forced(request.remaining)
        request.expected = min(len(forced), request.yielding)
        request.jumped += len(forced)
        for token in forced:
            self._take_token(request, token)
            if request.finish is not None:
                return

    def _take_token(self, request: Request, token: int) -> None:
        """Append a token; it may be the last."""
        request.tokens.append(token)
        request.unsent.append(token)
        outputs = len(request.tokens) - request.prompt_len
        self.counts.generated_tokens += 1
        if outputs == 1:
            request.first_token_at = self.clock()
            self.observer.first_token(request)
        ended = request.guide.take(token)
        if token in request.stop_ids:
            self._end(request, Finish.stop(token))
        elif outputs >= request.max_new:
            self._end(request, Finish.at_length(outputs))
        elif ended:
            self._end(request, Finish.complete(token))

    def _end(self, request: Request, finish: Finish) -> None:
        request.computed = min(request.computed, len(request.tokens))
        if request.status is Status.RUNNING and not request.settled and finish.type != "abort":
            self._vacate(request)
            self._lingering[request.id] = request
        elif request.status is Status.RUNNING:
            self._leave(request)
        elif request.status is Status.WAITING:
            self.waiting.remove(request)
        request.status = Status.FINISHED
        request.finish, request.finished_at = finish, self.clock()
        del self.requests[request.id]
        self._suspects.discard(request)
        self.observer.finished(request)

    # -- when a step raises ------------------------------------------------------------------------------------------

    def retract(self, plans: Sequence[Plan]) -> list[Reply]:
        """`plans[0]` raised, and the steps launched after it cannot be trusted; all of them are over.

        Their requests go back to the queue as suspects and are tried alone, in small steps, until one succeeds. A
        suspect that was alone and failed ends with an error of its own.
        """
        replies = []
        alone = len(plans[0].rows) == 1
        for plan in plans:
            self.ledger.copied([copy.ticket for copy in plan.copies])
            self._distrust_copies(plan)
            for request in self.requests_of(plan):
                if alone and plan is plans[0] and request in self._suspects:
                    self._end(request, internal_error(request.id, "model_failed"))
                    replies.append(request.take_reply())
                else:
                    self._preempt(request)
                    self._suspects.add(request)
        self.ledger.settle(plans[-1].step)
        return replies

    def _distrust_copies(self, plan: Plan) -> None:
        """Nobody knows whether the copies of a plan that raised were made: what was to be copied is not computed."""
        for new in plan.opened:
            request = self._slots[new.slot]
            if request is not None and request.epoch == new.epoch:
                request.computed = min(request.computed, request.held.published * self.ledger.page_size)

    def guided(self, plan: Plan) -> list[Guided]:
        """Rows of the plan made last that sample under a guide, as far as their requests still are where it left them.

        What such a row is expected to yield stands at the position that follows all planned ones.
        """
        found = []
        for index, row in enumerate(plan.rows):
            request = self._slots[row.slot]
            if row.sample and request is not None and request.epoch == row.epoch and request.guide is not FREE:
                found.append(Guided(index, request, request.tokens[request.planned] if request.expected else None))
        return found

    def requests_of(self, plan: Plan) -> list[Request]:
        """The requests that a plan opened or computes and that are still where it left them."""
        places = {(row.slot, row.epoch) for row in plan.rows} | {(new.slot, new.epoch) for new in plan.opened}
        found = [self._slots[slot] for slot, epoch in sorted(places)]
        return [r for r in found if r is not None and (r.slot, r.epoch) in places]

    def _plan_suspects(self, draft: _Draft) -> None:
        """One suspect at a time. Where there is no room to start one, the others go on until there is."""
        draft.allowance = min(draft.allowance, self.SOLO_CHUNK)
        running = next((r for r in self.running if r in self._suspects), None)
        if running is not None:
            if not running.flying:
                self._continue_one(draft, running, len(self.running))
                self._continue_deferred(draft)
            return
        suspect = min(self._suspects, key=_precedence)
        if not self._free_slots or not self._open(draft, suspect, 0):
            self._continue(draft)
