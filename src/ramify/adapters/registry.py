"""Adapters by name: which there are, which are in memory, which stand in slots. One writer, the loop of the engine.

    known --read--> in memory --enter--> in a slot
      ^                 |  ^                 |
      └── others need ──┘  └── others need ──┘
          its memory            its slot

Every reading is an adapter of its own, with an id that never comes again: what a name meant before it was unloaded, or
before its folder was read anew, is found by no later request. A request keeps the adapter that it came with.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ramify.config.adapters import AdapterPath, AdapterPlan, check_name
from ramify.core.errors import BadRequest, NotFound, Overloaded, UserError
from ramify.schedule.adapter import BARE, NO_SLOT
from ramify.schedule.adapter import Adapter as OfRequest
from ramify.schedule.gate import GO, Refuse, Verdict, Wait
from ramify.schedule.request import Request, Status
from ramify.wire.messages import Submit
from ramify.wire.plan import Moved

log = logging.getLogger(__name__)


class Read(NamedTuple):
    """What is known of an adapter when it is in memory: how many tokens it has, 0 for as many as the model."""

    rank: int
    vocab: int = 0


class Store(Protocol):
    """Where the weights of adapters are."""

    def read(self, id: int, name: str, path: str) -> Read:
        """Read a folder into memory, on a thread. Raises `UserError` where it cannot be served."""

    def forget(self, id: int) -> None:
        """No plan that comes will name it; those that are launched may."""


@dataclass(eq=False)
class Adapter:
    """One reading of an adapter. `used` and `entered` say when, in turns."""

    name: str
    path: str
    pinned: bool
    id: int
    key: bytes  # of its salts: who does not have it cannot name them
    reading: Future[Read]
    slot: int = NO_SLOT
    used: int = 0
    entered: int = 0

    @property
    def is_read(self) -> bool:
        return self.reading.done() and not self.reading.cancelled() and self.reading.exception() is None

    @property
    def is_gone(self) -> bool:
        """Others needed its memory, or it could not be read."""
        return self.reading.cancelled() or self.failure is not None

    @property
    def failure(self) -> UserError | None:
        """Why it could not be read."""
        if not self.reading.done():
            return None
        error = None if self.reading.cancelled() else self.reading.exception()
        if error is None or isinstance(error, UserError):
            return error
        return BadRequest(f"the adapter {self.name!r} could not be read: {error}", param="lora_path")

    def salted(self, salt: str) -> str:
        spelled = salt.encode("utf-8", "surrogatepass")
        return "adapter:" + hashlib.blake2b(spelled, key=self.key, digest_size=32).hexdigest()


class Registry:
    """What the scheduler asks for adapters, a gate, and what orders change."""

    def __init__(self, plan: AdapterPlan, store: Store, wake: Callable[[], None] = lambda: None) -> None:
        self.plan = plan
        self._tell: Callable[[list[AdapterPath]], None] = lambda adapters: None
        self._store, self._wake = store, wake
        self._users: Callable[[], Iterable[Request]] = tuple
        self._named: dict[str, Adapter] = {}
        self._leaving: list[Adapter] = []  # without a name, and requests still have them
        self._slots: list[Adapter | None] = [None] * plan.slots
        self._moved: list[Moved] = []
        self._highest: dict[str, int] = {}  # ids of tokens, of requests whose adapters were not read when they came
        self._first: Request | None = None  # of those that wait for a slot, as far as is known
        self._key = secrets.token_bytes(16)
        self._ids, self._turns = itertools.count(1), itertools.count(1)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ramify-adapters")

    def watch(self, users: Callable[[], Iterable[Request]]) -> None:
        """Whose requests count as users of adapters."""
        self._users = users

    def tell_changes(self, tell: Callable[[list[AdapterPath]], None]) -> None:
        """Of which adapters there are: now, when one was read, and when one is not there any more."""
        self._tell = tell
        tell(self.paths)

    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)

    # -- orders ------------------------------------------------------------------------------------------------------

    def load(self, name: str, path: str, pinned: bool = False) -> Adapter:
        """Begin to read an adapter. Requests may name it at once, and wait for it."""
        check_name(name, "lora_name")
        known = self._named.get(name)
        if known is not None and known.failure is None:
            raise BadRequest(f"the adapter {name!r} is loaded already: unload it first", param="lora_name")
        if pinned and sum(each.pinned for each in self._named.values()) >= self.plan.slots - 1:
            raise BadRequest(
                f"at most {self.plan.slots - 1} of {self.plan.slots} slots can be those of pinned adapters",
                param="pinned",
            )
        return self._read(name, path, pinned)

    def unload(self, name: str) -> Adapter:
        """From now on no request can name it; `release` frees it when those that have it have ended."""
        adapter = self._known(name)
        del self._named[name]
        self._leaving.append(adapter)
        self._tell(self.paths)
        return adapter

    def release(self, adapter: Adapter) -> bool:
        """Free an adapter that was unloaded. False: requests have it still."""
        if adapter in self._leaving:
            if self.in_use(adapter) or not adapter.reading.done():
                return False
            self._leaving.remove(adapter)
            self._drop(adapter)
        return True

    def _sweep(self) -> None:
        """Whoever unloaded them may have given up waiting."""
        for adapter in list(self._leaving):
            self.release(adapter)

    def settled(self, adapter: Adapter) -> dict[str, Any]:
        """What became of a reading that is over; raises `UserError` where it failed."""
        failure = adapter.failure
        if failure is not None:
            if self._named.get(adapter.name) is adapter:
                del self._named[adapter.name]
            raise failure
        self._tell(self.paths)
        return self.record(adapter)

    def listed(self) -> list[dict[str, Any]]:
        return [self.record(self._named[name]) for name in self.names]

    @property
    def names(self) -> list[str]:
        """Those that requests can give."""
        return [name for name, adapter in self._named.items() if adapter.failure is None]

    @property
    def paths(self) -> list[AdapterPath]:
        """Those that were read once, as they would be loaded."""
        there = [adapter for adapter in self._named.values() if adapter.is_read or adapter.reading.cancelled()]
        return [AdapterPath(adapter.name, adapter.path, adapter.pinned) for adapter in there]

    def record(self, adapter: Adapter) -> dict[str, Any]:
        """An adapter as others see it. `loaded`: its weights are in memory."""
        return {
            "name": adapter.name,
            "id": adapter.id,
            "path": adapter.path,
            "pinned": adapter.pinned,
            "loaded": adapter.is_read,
            "rank": adapter.reading.result().rank if adapter.is_read else None,
            "in_use": self.in_use(adapter),
            "slot": None if adapter.slot == NO_SLOT else adapter.slot,
        }

    def in_use(self, adapter: Adapter) -> int:
        """How many requests have it."""
        return sum(request.adapter is adapter for request in self._users())

    @property
    def slots_used(self) -> int:
        return sum(adapter is not None for adapter in self._slots)

    @property
    def utilization(self) -> float:
        """Used slots as a share."""
        return self.slots_used / self.plan.slots

    # -- what the scheduler asks -------------------------------------------------------------------------------------

    def adapter(self, submit: Submit) -> OfRequest:
        if not submit.adapter:
            return BARE
        adapter = self._known(submit.adapter)
        if adapter.is_gone:
            adapter = self._read(adapter.name, adapter.path, adapter.pinned)
        adapter.used = next(self._turns)
        if adapter.is_read:
            _check_tokens(adapter, highest_of(submit))
        else:
            waiting = {request.id for request in self._users()}
            self._highest = {rid: highest for rid, highest in self._highest.items() if rid in waiting}
            self._highest[submit.rid] = highest_of(submit)
        return adapter

    def verdict(self, request: Request, running: Sequence[Request]) -> Verdict:
        """As a `Gate`."""
        adapter = request.adapter
        if not isinstance(adapter, Adapter):
            return GO
        if adapter.failure is not None:
            return Refuse(adapter.failure)
        if not adapter.is_read:
            return Wait(f"the adapter {adapter.name} is being read")
        try:
            _check_tokens(adapter, self._highest.pop(request.id, -1))
        except BadRequest as e:
            return Refuse(e)
        if adapter.slot == NO_SLOT and self._free_slot(running) is None:
            if not self._is_before(self._first, request):
                self._first = request
            return Wait(f"the adapter {adapter.name} needs a slot, and all {self.plan.slots} compute")
        if adapter.slot != NO_SLOT and self._is_before(self._first, request) and adapter is self._giving_way(running):
            return Wait(f"the adapter {adapter.name} gives way to one that is needed longer")
        return GO

    def _is_before(self, first: Request | None, request: Request) -> bool:
        """Whether somebody else who waits for a slot comes before this request."""
        if first is None or first.status is not Status.WAITING or first is request:
            return False
        adapter = first.adapter
        if not isinstance(adapter, Adapter) or adapter.slot != NO_SLOT:
            return False
        return (-first.priority, first.order) < (-request.priority, request.order)

    def _giving_way(self, running: Sequence[Request]) -> Adapter | None:
        """The adapter that takes no more requests while somebody waits for a slot, or one that is in demand would never
        get one: that with the fewest running. It stays the one, since they only become fewer.
        """
        counts = {each: 0 for each in self._slots if each is not None and not each.pinned}
        for request in running:
            if request.adapter in counts:
                counts[request.adapter] += 1
        return min(counts, key=lambda each: (counts[each], each.slot), default=None)

    def enter(self, adapter: OfRequest, running: Sequence[Request]) -> int | None:
        if not isinstance(adapter, Adapter):
            return NO_SLOT
        if not adapter.is_read:
            return None
        if adapter.slot == NO_SLOT:
            slot = self._free_slot(running)
            if slot is None:
                return None
            self._put(adapter, slot)
        adapter.used = next(self._turns)
        return adapter.slot

    def moved(self) -> list[Moved]:
        moved, self._moved = self._moved, []
        return moved

    # -- slots and memory --------------------------------------------------------------------------------------------

    def _known(self, name: str) -> Adapter:
        adapter = self._named.get(name)
        if adapter is None:
            there = ", ".join(sorted(self._named)[:8]) or "none"
            raise NotFound(
                f"the adapter {name!r} is not loaded; loaded: {there}", param="lora_path", code="adapter_not_found"
            )
        return adapter

    def _read(self, name: str, path: str, pinned: bool) -> Adapter:
        self._make_room()
        number = next(self._ids)
        reading = self._reader.submit(self._store.read, number, name, path)
        key = hashlib.blake2b(number.to_bytes(8, "little"), key=self._key, digest_size=32).digest()
        adapter = self._named[name] = Adapter(name, path, pinned, number, key, reading)
        reading.add_done_callback(lambda _: self._wake())
        return adapter

    def _make_room(self) -> None:
        """In memory, for one more: what was used longest ago goes, unless it is pinned or a request has it."""
        self._sweep()
        there = [each for each in (*self._named.values(), *self._leaving) if not each.is_gone]
        if len(there) < self.plan.loaded:
            return
        used = {request.adapter for request in self._users()}
        spare = [
            each
            for each in there
            if each.is_read and not each.pinned and each not in used and each not in self._leaving
        ]
        if not spare:
            raise Overloaded(f"all {self.plan.loaded} adapters in memory are in use or pinned (--max-loaded-loras)")
        self._drop(self._oldest(spare))

    def _drop(self, adapter: Adapter) -> None:
        """Its weights go, out of memory and out of its slot."""
        if adapter.slot != NO_SLOT:
            self._slots[adapter.slot], adapter.slot = None, NO_SLOT
        self._moved = [moved for moved in self._moved if moved.id != adapter.id]
        if adapter.is_read:
            self._store.forget(adapter.id)
        gone: Future[Read] = Future()
        gone.cancel()
        adapter.reading = gone

    def _free_slot(self, running: Sequence[Request]) -> int | None:
        """One that is empty, or that of an adapter that no running request has."""
        if None in self._slots:
            return self._slots.index(None)
        used = {request.adapter for request in running}
        spare = [each for each in self._slots if each is not None and not each.pinned and each not in used]
        return self._oldest(spare).slot if spare else None

    def _oldest(self, adapters: Iterable[Adapter]) -> Adapter:
        return min(adapters, key=lambda each: each.used if self.plan.policy == "lru" else each.entered)

    def _put(self, adapter: Adapter, slot: int) -> None:
        former = self._slots[slot]
        if former is not None:
            former.slot = NO_SLOT
            self._moved = [moved for moved in self._moved if moved.slot != slot]
        self._slots[slot], adapter.slot, adapter.entered = adapter, slot, next(self._turns)
        self._moved.append(Moved(slot, adapter.id))


def highest_of(submit: Submit) -> int:
    """The highest id of a token that a request names."""
    params, wanted = submit.params, submit.logprobs
    listed = () if wanted is None else wanted.ids
    return max(max(submit.tokens), *(params.stop_token_ids or ()), *(params.logit_bias or ()), *listed, -1)


def _check_tokens(adapter: Adapter, highest: int) -> None:
    vocab = adapter.reading.result().vocab
    if vocab and highest >= vocab:
        raise BadRequest(
            f"{highest} is not a token id of the adapter {adapter.name!r} (0 to {vocab - 1})", param="input_ids"
        )
