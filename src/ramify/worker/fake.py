"""An executor without a model, which can tell when it is lied to.

It keeps (token, position) in every page slot, poisons pages that are freed, applies copies when they run, and derives
each output token from what it reads THROUGH the page tables: a page used too early, freed too early or not copied
gives another token, and is noted in `damage`. With a second group of pages for windows, those are read within their
window too, and what stands there has to be the same; with one for states, a step folds its tokens into the state that
it reads there, and that has to be of all tokens before. What is written tells which adapter stood in the request's slot
of adapters: another than its own, or a prefix that another computed, gives other tokens. Of everything it remembers
whether an invariant step wrote it, and what a request that is invariant reads has to be. Steps run late, when their
result is waited for, so that whatever the scheduler does between launch and result meets them.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from zlib import crc32

from ramify.cache.ledger import BESIDE, FULL
from ramify.cache.state import StateShape
from ramify.cache.window import WindowShape
from ramify.wire.masks import Masks
from ramify.wire.plan import Opened, Plan, Row
from ramify.wire.result import HiddenStates, RowLogprobs, StepResult, TokenLogprobs

Place = tuple[int, int, int]  # group, page, offset
POISON = (-1, -1)
APART = 1000  # between the numbers of an input under one adapter and under the next
EMPTY = (17, 0)  # the state before the first token, and how many it is of


def fold(state: int, token: int) -> int:
    return (state * 1_000_003 + token + 1) & 0xFFFFFFFF


def next_token(tokens: Iterable[int], vocab: int) -> int:
    """The token that follows `tokens`: any fixed function of all of them in order does."""
    state, _ = EMPTY
    for token in tokens:
        state = fold(state, token)
    state ^= state >> 15
    return (state * 0x2C1B3C6D >> 7) % vocab


@dataclass(slots=True)
class _Slot:
    opened: Opened
    tokens: list[int]
    length: int
    pages: list[int] = field(default_factory=list)
    beside: list[int] = field(default_factory=list)


class FakePending:
    def __init__(self, executor: FakeExecutor, step: int) -> None:
        self._executor, self._step = executor, step

    def wait(self) -> StepResult:
        """Run everything up to this step and give its result; raises what the step raised."""
        return self._executor.result(self._step)


class FakeExecutor:
    """`pages` x `page_size` slots of memory, a vocabulary of `vocab` tokens. `beside`: there is a second group."""

    def __init__(
        self, pages: int, page_size: int, vocab: int = 50, beside: WindowShape | StateShape | None = None
    ) -> None:
        self.page_size = page_size
        self.vocab = vocab
        self.memory: list[list[tuple[int, int]]] = [[POISON] * page_size for _ in range(pages + 1)]
        window = beside if isinstance(beside, WindowShape) else None
        self.window = window.window if window else 0
        self.window_memory = [[POISON] * page_size for _ in range(window.pages + 1 if window else 0)]
        self.states = [EMPTY] + [POISON] * beside.slots if isinstance(beside, StateShape) else []
        self.slots: dict[int, _Slot] = {}
        self.adapters: dict[int, int] = {}  # ids, by slot of adapters
        self.invariant: set[Place] = set()  # what invariant steps wrote, and nothing else since
        self._mode = False  # of the step that runs
        self.damage: list[str] = []
        self.steps = 0
        self._queue: deque[Plan] = deque()
        self._results: dict[int, StepResult | Exception] = {}
        self._allowed: dict[tuple[int, int], list[int]] = {}  # by step and row

    def launch(self, plan: Plan) -> None:
        self._queue.append(plan)

    def sample(self, plan: Plan, masks: Masks | None = None) -> FakePending:
        for row, words in zip(masks.rows, masks.words, strict=True) if masks is not None else ():
            self._allowed[plan.step, row] = [t for t in range(self.vocab) if words[t // 32] >> (t % 32) & 1]
        return FakePending(self, plan.step)

    def poison(self, group: int, pages: Iterable[int]) -> None:
        """These pages were given back to the pool."""
        pages = list(pages)
        self.invariant -= {(group, page, offset) for page in pages for offset in range(self.page_size)}
        if group == BESIDE and self.states:
            for page in pages:
                self.states[page] = POISON
            return
        memory = self.window_memory if group == BESIDE else self.memory
        for page in pages:
            memory[page] = [POISON] * self.page_size

    def drain(self) -> None:
        """Forget what was launched and has not run."""
        self._queue.clear()
        self._results.clear()

    def close(self) -> None: ...

    def result(self, step: int) -> StepResult:
        while step not in self._results:
            plan = self._queue.popleft()
            try:
                self._results[plan.step] = self.run(plan)
            except Exception as e:  # noqa: BLE001  (kept for whoever waits, as a real executor does)
                self._results[plan.step] = e
        result = self._results.pop(step)
        if isinstance(result, Exception):
            raise result
        return result

    def run(self, plan: Plan) -> StepResult:
        self.steps += 1
        for slot in plan.closed:
            self.slots.pop(slot, None)
        for moved in plan.moved:
            self.adapters[moved.slot] = moved.id
        for new in plan.opened:
            self.slots[new.slot] = _Slot(new, list(new.tokens), new.start)
        for grant in plan.grants:
            granted = self.slots[grant.slot]
            table = granted.beside if grant.group == BESIDE else granted.pages
            table += grant.pages
        for copy in plan.copies:
            self.copy(copy.group, copy.source, copy.target)
        self._mode = plan.invariant
        if plan.rows and plan.invariant != any(self.slots[row.slot].opened.invariant for row in plan.rows):
            self.damage.append(f"step {plan.step} is {'invariant for nobody' if plan.invariant else 'not invariant'}")
        tokens: list[list[int]] = []
        logprobs: dict[int, RowLogprobs] = {}
        hidden: dict[int, HiddenStates] = {}
        for index, row in enumerate(plan.rows):
            first = self.slots[row.slot].length
            tokens.append(self.compute(row, self._allowed.pop((plan.step, index), None)))
            if self.slots[row.slot].opened.hidden_from >= 0:
                hidden |= self.tell(index, row, first)
            if row.logprobs_from >= 0:
                logprobs[index] = self.score(row)
        return StepResult(plan.step, tokens, logprobs, [copy.ticket for copy in plan.copies], {}, hidden)

    def tell(self, index: int, row: Row, first: int) -> dict[int, HiddenStates]:
        """A stand-in: the hidden state of a position is what stands in memory there, token and position."""
        slot, end = self.slots[row.slot], first + row.count
        first = max(first, slot.opened.hidden_from)
        pairs = [self.memory[slot.pages[p // self.page_size]][p % self.page_size] for p in range(first, end)]
        data = array("f", [float(number) for pair in pairs for number in pair]).tobytes()
        return {index: HiddenStates(first, len(pairs), data)} if pairs else {}

    def copy(self, group: int, source: int, target: int) -> None:
        memory = self.window_memory if group == BESIDE else self.memory
        memory[target] = list(memory[source])
        for offset in range(self.page_size):
            self._wrote((group, target, offset), (group, source, offset) in self.invariant)

    def _wrote(self, place: Place, invariant: bool) -> None:
        (self.invariant.add if invariant else self.invariant.discard)(place)

    def _check_mode(self, slot: _Slot, place: Place) -> None:
        if slot.opened.invariant and place not in self.invariant:
            self.damage.append(f"an invariant request reads {place}, which a step of the other kind wrote")

    def compute(self, row: Row, allowed: list[int] | None = None) -> list[int]:
        slot = self.slots[row.slot]
        if slot.opened.epoch != row.epoch:
            self.damage.append(f"row of epoch {row.epoch} for a slot of epoch {slot.opened.epoch}")
        slot.tokens += row.given
        known = len(slot.tokens)
        slot.tokens += row.drafts
        for position in range(slot.length, slot.length + row.count):
            self.write(slot, position)
        self.look_back(slot, slot.length, row.count)
        if self.states:
            self.advance(slot, slot.length, row.count)
        if not row.sample:
            slot.length += row.count
            return []
        del slot.tokens[known:]
        given: list[int] = []
        for draft in (*row.drafts, None):
            token = next_token(self.read(slot, known + len(given)), self.vocab)
            if allowed is not None:
                token = allowed[token % len(allowed)]
            given.append(token)
            if token != draft:
                break
        slot.length += row.count - 1 - len(row.drafts) + len(given)
        slot.tokens += given
        return given

    def write(self, slot: _Slot, position: int) -> None:
        page, offset = divmod(position, self.page_size)
        written = (self.input(slot, position), position)
        if position >= slot.opened.read_until:
            self.memory[slot.pages[page]][offset] = written
            self._wrote((FULL, slot.pages[page], offset), self._mode)
        elif self.memory[slot.pages[page]][offset] != written:
            self.damage.append(f"position {position} is not what it should be already")
        if self.window:
            self.window_memory[slot.beside[page]][offset] = written
            self._wrote((BESIDE, slot.beside[page], offset), self._mode)

    def advance(self, slot: _Slot, first: int, count: int) -> None:
        """Fold tokens into the state before them, and leave it behind in every slot of the pages they fill."""
        source = slot.beside[(first - 1) // self.page_size] if first else 0
        state, known = self.states[source]
        if known != first or (first and not source):
            self.damage.append(f"a state of {known} positions is read at {first}")
        if first:
            self._check_mode(slot, (BESIDE, source, 0))
        for position in range(first, first + count):
            state = fold(state, self.input(slot, position))
            self.states[slot.beside[position // self.page_size]] = (state, position + 1)
            self._wrote((BESIDE, slot.beside[position // self.page_size], 0), self._mode)
        if self.states[0] != EMPTY:
            self.damage.append("a state is written to slot 0")
        wanted, _ = EMPTY
        for position in range(first + count):
            wanted = fold(wanted, self.input(slot, position))
        if state != wanted:
            self.damage.append(f"the state at {first + count} is not that of the tokens before")

    def look_back(self, slot: _Slot, first: int, count: int) -> None:
        """What the window of these positions holds must be what the full pages hold."""
        for position in range(max(first - self.window + 1, 0), first + count) if self.window else ():
            page, offset = divmod(position, self.page_size)
            found = self.window_memory[slot.beside[page]][offset]
            self._check_mode(slot, (BESIDE, slot.beside[page], offset))
            if found != self.memory[slot.pages[page]][offset] or found[1] != position:
                self.damage.append(f"position {position} of a window holds {found}")

    def input(self, slot: _Slot, position: int) -> int:
        """The token there, or a number for the vector; another one under every adapter."""
        vectors, prompt = slot.opened.vectors, slot.opened.prompt_len
        apart = APART * self.adapters[slot.opened.adapter] if slot.opened.adapter >= 0 else 0
        if not vectors or position >= prompt:
            return slot.tokens[position] + apart
        size = len(vectors) // prompt
        return crc32(vectors[position * size : (position + 1) * size]) % APART + apart

    def read(self, slot: _Slot, end: int) -> Iterable[int]:
        """Tokens at positions below `end`, as they stand in memory."""
        for position in range(end):
            page, offset = divmod(position, self.page_size)
            token, written = self.memory[slot.pages[page]][offset]
            self._check_mode(slot, (FULL, slot.pages[page], offset))
            if written != position:
                self.damage.append(f"position {position} reads what was written for {written}")
            yield token

    def score(self, row: Row) -> RowLogprobs:
        """A stand-in: the log probability of a prompt token is minus its index."""
        slot = self.slots[row.slot]
        last = min(slot.length, slot.opened.prompt_len - 1)
        scored = range(row.logprobs_from, last + 1)
        return RowLogprobs(prompt=TokenLogprobs(row.logprobs_from, [-float(i) for i in scored]))
