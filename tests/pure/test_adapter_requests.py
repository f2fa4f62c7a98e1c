"""Adapters under everything a scheduler does, without a model: the executor notices one that is not a request's own."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import dataclass, field

import pytest
from world import World, expected, prompts, submit

from ramify.adapters.registry import Adapter, Read, Registry
from ramify.config.adapters import AdapterPlan, named_paths
from ramify.core.errors import BadRequest, NotFound, Overloaded, StartupError
from ramify.schedule.adapter import Adapter as OfRequest
from ramify.wire.messages import Abort, Submit


@dataclass
class FakeStore:
    """Remembers what is in memory; reads when it is let, and fails where a path says so."""

    there: dict[int, str] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    most: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def read(self, id: int, name: str, path: str) -> Read:
        self.gate.wait()
        if path == "bad":
            raise BadRequest(f"{name} is damaged")
        assert id not in self.there
        self.there[id] = name
        self.most = max(self.most, len(self.there))
        return Read(4)

    def forget(self, id: int) -> None:
        del self.there[id]


def plan(slots: int = 2, loaded: int = 4, policy: str = "lru") -> AdapterPlan:
    return AdapterPlan(slots, loaded, 16, ("all",), 0, policy)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def made(store: FakeStore) -> Iterator[list[Registry]]:
    """Registries to close."""
    registries: list[Registry] = []
    yield registries
    store.gate.set()
    for registry in registries:
        registry.close()


def loaded(registry: Registry, *names: str) -> list[Adapter]:
    found = [registry.load(name, f"/{name}") for name in names]
    wait([each.reading for each in found])
    return found


def noted_ids(world: World) -> dict[str, int]:
    """Of the adapter that each request comes with, and keeps, by the request. One may have ended within a step."""
    ids: dict[str, int] = {}
    assert world.adapters is not None
    find = world.adapters.adapter

    def noting(submit: Submit) -> OfRequest:
        adapter = find(submit)
        if isinstance(adapter, Adapter):
            ids[submit.rid] = adapter.id
        return adapter

    world.adapters.adapter = noting  # type: ignore[method-assign]
    return ids


@pytest.mark.parametrize("policy", ["lru", "fifo"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_every_request_has_its_own(seed: int, depth: int, policy: str, store: FakeStore, made: list[Registry]) -> None:
    """Six adapters in two slots, some given up and read anew on the way, with a pool so small that there are
    preemptions, prefixes that are shared, and requests that leave early.
    """
    rnd = random.Random(seed)
    registry = Registry(plan(policy=policy), store)
    made.append(registry)
    world = World(depth=depth, page_size=rnd.choice([1, 4]), pool=320, chunk=16, rows=6, adapters=registry)
    names = ["", *(f"a{number}" for number in range(6))]
    ids = noted_ids(world)
    for name in names[1:]:
        loaded(registry, name)
    wanted = {}
    for number, prompt in enumerate(prompts(rnd, 60)):
        rid, name = f"r{number}", rnd.choice(names)
        world.send(submit(rid, prompt, 12, adapter=name, salt=rnd.choice(["", "s"])))
        for _ in range(rnd.randrange(6)):
            world.step()
        wanted[rid] = (prompt, name)
        if rnd.random() < 0.1:
            world.send(Abort(rid))
            del wanted[rid]
    world.drain()
    assert not world.executor.damage
    refused = 0
    for rid, (prompt, name) in wanted.items():
        outcome = world.outcomes[rid]
        assert outcome.finish is not None
        if outcome.finish.type == "abort":
            assert outcome.finish.status == Overloaded.status, outcome.finish
            refused += 1
        else:
            assert outcome.tokens == expected(prompt, 12, adapter=ids[rid] if name else 0)
    assert refused < len(wanted) / 2
    assert store.most <= 4
    assert sum(each is not None for each in registry._slots) <= 2


def test_prefixes_are_an_adapters_own(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(), store)
    made.append(registry)
    world = World(adapters=registry)
    (one, two) = loaded(registry, "one", "two")
    prompt = list(range(30))
    for rid, name in (("a", ""), ("b", "one"), ("c", "two"), ("d", "one"), ("e", "")):
        world.send(submit(rid, prompt, 4, adapter=name))
        world.drain()
    assert [world.outcomes[rid].cached for rid in "abcde"] == [0, 0, 0, 29, 29]
    registry.unload("one")
    assert registry.release(one)
    (again,) = loaded(registry, "one")
    world.send(submit("f", prompt, 4, adapter="one"))
    world.drain()
    assert again.id not in (one.id, two.id)
    assert world.outcomes["f"].cached == 0
    assert world.outcomes["f"].tokens == expected(prompt, 4, adapter=again.id)


def test_a_salt_names_no_adapter(store: FakeStore, made: list[Registry]) -> None:
    """Not even where somebody knows the id: another server makes other salts of the same."""
    first, second = Registry(plan(), store), Registry(plan(), FakeStore())
    made += [first, second]
    one, two = loaded(first, "one")[0], loaded(second, "one")[0]
    assert one.id == two.id
    assert one.salted("x") != two.salted("x")
    assert one.salted("x") != one.salted("y")
    assert one.salted(one.salted("x")) != one.salted("x")


def test_a_request_waits_while_it_is_read(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(), store)
    made.append(registry)
    world = World(adapters=registry)
    store.gate.clear()
    adapter = registry.load("slow", "/slow")
    world.send(submit("a", [1, 2, 3], 4, adapter="slow"), submit("b", [1, 2, 3], 4))
    for _ in range(12):
        world.step()
    assert world.outcomes["b"].finish is not None
    assert world.outcomes["a"].finish is None
    assert not registry.record(adapter)["loaded"]
    store.gate.set()
    wait([adapter.reading])
    world.drain()
    assert world.outcomes["a"].tokens == expected([1, 2, 3], 4, adapter=adapter.id)


def test_what_cannot_be_read_is_refused(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(), store)
    made.append(registry)
    world = World(adapters=registry)
    store.gate.clear()
    adapter = registry.load("broken", "bad")
    world.send(submit("a", [1, 2, 3], 4, adapter="broken"), submit("b", [1], 1, adapter="nobody"))
    world.step()
    store.gate.set()
    wait([adapter.reading])
    world.drain()
    for rid, status, says in (("a", 400, "damaged"), ("b", 404, "not loaded")):
        finish = world.outcomes[rid].finish
        assert finish is not None
        assert (finish.type, finish.status) == ("abort", status)
        assert says in (finish.message or "")
    with pytest.raises(BadRequest, match="damaged"):
        registry.settled(adapter)
    assert not registry.listed()
    assert registry.load("broken", "/mended").name == "broken"


def test_unloading_waits_for_requests(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(), store)
    made.append(registry)
    world = World(adapters=registry)
    (adapter,) = loaded(registry, "one")
    world.send(submit("a", [1, 2, 3], 8, adapter="one", params={"ignore_eos": True}))
    world.step()
    registry.unload("one")
    assert not registry.release(adapter)
    with pytest.raises(NotFound):
        registry.adapter(submit("x", [1], adapter="one"))
    (successor,) = loaded(registry, "one")
    world.drain()
    assert world.outcomes["a"].tokens == expected([1, 2, 3], 8, True, adapter.id)
    assert registry.release(adapter)
    assert list(store.there) == [successor.id]


def test_nobody_starves(store: FakeStore, made: list[Registry]) -> None:
    """Two adapters in two slots that always have requests, and a third."""
    registry = Registry(plan(), store)
    made.append(registry)
    world = World(adapters=registry, rows=4)
    loaded(registry, "a", "b", "c")
    for number in range(200):
        world.send(submit(f"a{number}", [1, number % 50], 8, adapter="a", params={"ignore_eos": True}))
        world.send(submit(f"b{number}", [2, number % 50], 8, adapter="b", params={"ignore_eos": True}))
        if number == 10:
            world.send(submit("c", [3], 4, adapter="c"))
        world.step()
    place = 1 + max(each.startswith("c") * at for at, each in enumerate(world.finished_order))
    assert "c" in world.finished_order
    assert place < 60
    world.drain()
    assert not world.executor.damage


def test_pins(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(slots=3), store)
    made.append(registry)
    world = World(adapters=registry)
    wait([registry.load(name, "/", pinned=True).reading for name in ("p", "q")])
    with pytest.raises(BadRequest, match="at most 2 of 3"):
        registry.load("r", "/", pinned=True)
    loaded(registry, "a", "b")
    for rid, name in enumerate(["p", "q", "a", "b", "a", "b"]):
        world.send(submit(str(rid), [1, 2, 3], 2, adapter=name))
        world.drain()
    slots = {record["name"]: record["slot"] for record in registry.listed()}
    assert slots["p"] is not None
    assert slots["q"] is not None
    assert slots["a"] is None


def test_memory_has_a_limit(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(loaded=2), store)
    made.append(registry)
    world = World(adapters=registry)
    loaded(registry, "a")
    loaded(registry, "b")
    loaded(registry, "c")
    assert sorted(store.there.values()) == ["b", "c"]
    assert [record["loaded"] for record in registry.listed()] == [False, True, True]
    world.send(submit("r", [1, 2], 2, adapter="a"))
    world.step()
    wait([registry._named["a"].reading])
    world.drain()
    assert world.outcomes["r"].tokens == expected([1, 2], 2, adapter=4)
    assert sorted(store.there.values()) == ["a", "c"]


def test_a_folder_that_was_gone(store: FakeStore, made: list[Registry]) -> None:
    """What gave up its memory and cannot be read again is refused, until it can."""
    registry = Registry(plan(loaded=2), store)
    made.append(registry)
    world = World(adapters=registry)
    loaded(registry, "a")
    registry._named["a"].path = "bad"
    loaded(registry, "b")
    loaded(registry, "c")
    statuses = []
    for rid in "xy":
        world.send(submit(rid, [1, 2], 2, adapter="a"))
        world.step()
        wait([registry._named["a"].reading])
        world.drain()
        finish = world.outcomes[rid].finish
        assert finish is not None
        statuses.append((finish.type, finish.status))
        registry._named["a"].path = "/a"
    assert statuses == [("abort", 400), ("length", None)]


def test_a_thousand_times(store: FakeStore, made: list[Registry]) -> None:
    registry = Registry(plan(), store)
    made.append(registry)
    world = World(adapters=registry)
    for number in range(1000):
        (adapter,) = loaded(registry, "x")
        world.send(submit(str(number), [1, 2, 3, number % 50], 2, adapter="x"))
        world.step()
        registry.unload("x")
        world.drain()
        assert registry.release(adapter)
    assert not store.there
    assert not registry.listed()
    assert registry._slots == [None, None]
    assert not registry._leaving
    assert not registry._moved
    assert not world.executor.damage


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["a=/x", "a=/y"], "given twice"),
        (["=/x"], "1 to 256"),
        (["a="], "no folder"),
        (['{"lora_name": "a"}'], "lora_path"),
        (["a:b=/x"], "without a colon"),
    ],
)
def test_bad_paths(given: list[str], says: str) -> None:
    with pytest.raises(StartupError, match=says):
        named_paths(given)
