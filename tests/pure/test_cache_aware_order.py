"""How much of what could be shared is shared, against an oracle."""

from __future__ import annotations

import pytest
from workloads import OFFLINE, Prompt, Writer, agents, chats, distinct_tokens
from world import World, submit

from ramify.core.finish import Finish
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult
from ramify.worker.fake import FakeExecutor


class Instant(FakeExecutor):
    """Answers without memory: here only the decisions matter. Every answer is made of fresh tokens."""

    fresh = 10**6

    def run(self, plan: Plan) -> StepResult:
        tokens: list[list[int]] = []
        for row in plan.rows:
            self.fresh += row.sample
            tokens.append([self.fresh] if row.sample else [])
        return StepResult(plan.step, tokens, {}, [copy.ticket for copy in plan.copies], {})

    def poison(self, group: int, pages: object) -> None: ...


def world(pool: int, rows: int, page_size: int, policy: str = "lpm", chunk: int = 2048) -> World:
    return World(
        pool=pool,
        rows=rows,
        page_size=page_size,
        policy=policy,
        chunk=chunk,
        executor_class=Instant,
        prove=False,
    )


def offline(prompts: list[Prompt], w: World, max_new: int = 1) -> int:
    """All requests wait from the start. Returns the prompt tokens found in the cache."""
    w.send(*(submit(f"r{n}", prompt, max_new) for n, prompt in enumerate(prompts)))
    w.loop.take_messages()
    w.drain()
    return w.scheduler.counts.cached_tokens


def play_chats(users: list[list[tuple[Prompt, int]]], w: World, in_rounds: bool) -> tuple[int, list[list[int]]]:
    """Every user's next turn repeats the conversation so far. `in_rounds`, all users speak before any speaks again.

    Returns the cached prompt tokens, and for each round the lengths of the histories that could have been found.
    """
    history: list[Prompt] = [[] for _ in users]
    turn = [0] * len(users)
    found: list[list[int]] = [[] for _ in range(max(map(len, users)))]

    def speak(user: int) -> None:
        given, answer = users[user][turn[user]]
        found[turn[user]].append(len(history[user]))
        history[user] = history[user] + given
        w.send(submit(f"u{user}t{turn[user]}", history[user], answer))
        turn[user] += 1

    def hear(rid: str) -> int:
        user = int(rid[1:].split("t")[0])
        history[user] = history[user] + w.outcomes[rid].tokens
        return user

    for user in range(len(users)):
        speak(user)
    heard = 0
    for _ in range(100_000):
        w.step()
        while heard < len(w.finished_order):
            user = hear(w.finished_order[heard])
            heard += 1
            if not in_rounds and turn[user] < len(users[user]):
                speak(user)
        if w.scheduler.is_idle and not w.loop.flying:
            if turn[0] >= len(users[0]):
                break
            if in_rounds:
                for user in range(len(users)):
                    speak(user)
    return w.scheduler.counts.cached_tokens, found


@pytest.mark.parametrize("shape", OFFLINE)
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("queue", ["asked one by one", "sorted"])
def test_offline_one_at_a_time_is_the_optimum(shape: str, page_size: int, queue: str) -> None:
    for seed in range(3):
        writer = Writer(seed)
        prompts = writer.shuffled(OFFLINE[shape](writer))
        w = world(pool=1 << 17, rows=1, page_size=page_size)
        if queue == "sorted":
            w.scheduler.policy._exact = 0  # type: ignore[attr-defined]
        assert offline(prompts, w) == sum(map(len, prompts)) - distinct_tokens(prompts)


@pytest.mark.parametrize("shape", OFFLINE)
@pytest.mark.parametrize("page_size", [1, 16])
def test_the_optimum_needs_a_cache_of_one_request_only(shape: str, page_size: int) -> None:
    writer = Writer(5)
    prompts = writer.shuffled(OFFLINE[shape](writer))
    longest = max(map(len, prompts))
    # Depth first needs the longest request and its one output; pages add what they round up, on the request itself
    # and on the siblings that stand beside it while they are copied from.
    pool = longest + 1 if page_size == 1 else (longest // page_size + 5) * page_size
    assert offline(prompts, world(pool, 1, page_size)) == sum(map(len, prompts)) - distinct_tokens(prompts)


@pytest.mark.parametrize("rows", [4, 16])
@pytest.mark.parametrize("page_size", [1, 16])
def test_with_concurrency_nearly_the_optimum(rows: int, page_size: int) -> None:
    shares = {}
    for shape, make in OFFLINE.items():
        writer = Writer(1)
        prompts = writer.shuffled(make(writer))
        best = sum(map(len, prompts)) - distinct_tokens(prompts)
        got = offline(prompts, world(1 << 17, rows, page_size), max_new=12)
        shares[shape] = got / best if best else 1.0
    assert min(shares.values()) >= 0.95, shares


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("rows", [1, 4])
def test_chats_without_a_pause_are_followed_through(page_size: int, rows: int) -> None:
    """With the next turn there at once, a conversation can be finished before the next: the cache hardly matters."""
    users = chats(Writer(2), users=40, turns=5, given=(100, 200), answer=40)
    working_set = sum(len(given) + answer for user in users for given, answer in user)
    cached, found = play_chats(users, world(working_set // 2, rows, page_size), in_rounds=False)
    assert cached >= 0.95 * sum(map(sum, found))


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("rows", [1, 4])
def test_chats_in_rounds_with_half_the_cache(page_size: int, rows: int) -> None:
    """All users speak before any speaks again: what is found in a round has stood in the cache since the last.

    So no schedule, however clairvoyant, finds more in a round than the histories there are, or than fits the cache.
    """
    users = chats(Writer(3), users=60, turns=6, given=(100, 200), answer=40)
    working_set = sum(len(given) + answer for user in users for given, answer in user)
    pool = working_set // 2 // page_size * page_size
    cached, found = play_chats(users, world(pool, rows, page_size), in_rounds=True)
    clairvoyant = sum(min(sum(histories), pool) for histories in found)
    assert sum(found[-1]) > pool, "the last round does not fit: the cache is too small for all"
    assert cached >= 0.95 * clairvoyant


@pytest.mark.parametrize("page_size", [1, 16])
def test_agents_share_their_examples(page_size: int) -> None:
    users = agents(Writer(4), count=20, steps=6)
    w = world(1 << 17, 8, page_size)
    cached, found = play_chats(users, w, in_rounds=False)
    shared_start = (len(users) - 1) * 800
    assert cached >= 0.98 * (sum(map(sum, found)) + shared_start)


def test_a_finished_answer_can_be_continued() -> None:
    w = world(4096, 1, 16)
    w.send(submit("a", list(range(100)), 9))
    w.drain()
    assert w.outcomes["a"].finish == Finish.at_length(9)
    w.send(submit("b", list(range(100)) + w.outcomes["a"].tokens + [5, 6], 1))
    w.drain()
    assert w.outcomes["b"].cached == 108  # the last output was never computed
