"""The scheduler's rules, one by one."""

from __future__ import annotations

import pytest
from world import EOS, VOCAB, LogprobsWanted, World, expected, submit

from ramify.cache.tree import pack
from ramify.core.errors import BadRequest, Overloaded
from ramify.core.finish import Finish
from ramify.schedule.gate import GO, Refuse, Verdict, Wait
from ramify.schedule.policy import POLICIES, make_policy
from ramify.schedule.request import Request
from ramify.wire.messages import Abort
from ramify.wire.plan import Plan
from ramify.worker.fake import FakeExecutor

GO_ON = {"ignore_eos": True}
LONG = [n % VOCAB for n in range(3, 203) if n % VOCAB != EOS]


def run(world: World, *rids: str) -> None:
    world.drain()
    for rid in rids:
        assert world.outcomes[rid].finish is not None


# -- steps -----------------------------------------------------------------------------------------------------------


def test_a_long_prompt_is_computed_in_chunks_beside_rows_that_generate() -> None:
    world = World(chunk=16)
    world.send(submit("short", [1, 2, 7], 40))
    world.step()
    world.send(submit("long", LONG, 2))
    plans: list[Plan] = []
    launch = world.executor.launch
    world.executor.launch = lambda plan: (plans.append(plan), launch(plan))[1]  # type: ignore[method-assign]
    world.drain()
    mixed = [plan for plan in plans if len(plan.rows) == 2 and max(row.count for row in plan.rows) > 1]
    assert len(mixed) >= len(LONG) // 16
    assert all(plan.tokens <= 16 for plan in plans)
    assert world.outcomes["long"].tokens == expected(LONG, 2)
    assert world.outcomes["short"].tokens == expected([1, 2, 7], 40)


def test_many_answers_do_not_starve_a_prompt() -> None:
    world = World(chunk=8, rows=12, pool=8192)
    for n in range(10):
        world.send(submit(f"r{n}", [n + 8, 2], 400, params=GO_ON))
    for _ in range(8):
        world.step()
    assert len(world.scheduler.running) == 10
    world.send(submit("late", LONG, 1))
    for _ in range(len(LONG) // 2 + 2):
        world.step()
    assert world.outcomes["late"].finish is not None


def test_no_more_rows_than_allowed() -> None:
    world = World(rows=3)
    for n in range(9):
        world.send(submit(f"r{n}", [n + 8, 1], 10))
    for _ in range(6):
        world.step()
        assert len(world.scheduler.running) <= 3
    run(world, *(f"r{n}" for n in range(9)))


def test_prefill_only() -> None:
    world = World()
    world.send(submit("p", LONG, 0))
    world.drain()
    assert world.outcomes["p"].finish == Finish.at_length(0)
    world.send(submit("q", LONG, 0))
    world.drain()
    assert world.outcomes["q"].cached == len(LONG) - 1


def test_eos_ends_unless_ignored_and_stop_tokens_do_too() -> None:
    prompt = next([a, b] for a in range(50) for b in range(50) if EOS in expected([a, b], 20)[:5])
    world = World()
    world.send(submit("eos", prompt, 20))
    world.drain()
    assert world.outcomes["eos"].finish == Finish.stop(EOS)
    world.send(submit("ignoring", prompt, 20, params=GO_ON))
    world.drain()
    assert world.outcomes["ignoring"].finish == Finish.at_length(20)
    third = world.outcomes["ignoring"].tokens[2]
    world.send(submit("s", prompt, 20, params={**GO_ON, "stop_token_ids": [third]}))
    world.drain()
    assert world.outcomes["s"].finish == Finish.stop(third)
    assert world.outcomes["s"].tokens[-1] == third


# -- what is refused -------------------------------------------------------------------------------------------------


def test_what_can_never_fit_alone_is_refused() -> None:
    world = World(pool=64)
    for bad in (submit("a", LONG, 1), submit("b", [1] * 40, 26, may_shorten=False)):
        with pytest.raises(BadRequest, match="tokens of KV cache"):
            world.scheduler.submit(bad)
    world.scheduler.submit(submit("c", [1] * 40, 25, may_shorten=False))


def test_a_default_length_gives_way_to_the_pool() -> None:
    world = World(pool=64, page_size=16)
    world.send(submit("c", [1, 2, 3], 4000, params=GO_ON))
    world.drain()
    assert world.outcomes["c"].finish == Finish.at_length(64 - 3 + 1)


def test_the_same_id_twice_and_an_empty_prompt() -> None:
    world = World()
    world.scheduler.submit(submit("a", [1], 4))
    with pytest.raises(BadRequest, match="already running"):
        world.scheduler.submit(submit("a", [1], 4))
    with pytest.raises(BadRequest, match="empty"):
        world.scheduler.submit(submit("b", [], 4))


def test_a_full_queue_is_503() -> None:
    world = World(max_queued=2, rows=1)
    world.scheduler.submit(submit("a", [1], 4))
    world.scheduler.submit(submit("b", [1], 4))
    with pytest.raises(Overloaded, match=r"The request queue is full\."):
        world.scheduler.submit(submit("c", [1], 4))


def test_a_refusal_reaches_the_client() -> None:
    world = World(pool=64)
    world.send(submit("big", LONG, 1))
    world.step()
    finish = world.outcomes["big"].finish
    assert finish is not None
    assert (finish.type, finish.status) == ("abort", 400)


# -- abort -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("steps", range(14))
def test_abort_at_every_point_of_a_life(depth: int, steps: int) -> None:
    world = World(depth=depth, chunk=32, page_size=16, pool=512, rows=2)
    world.send(submit("x", LONG[:100], 8), submit("y", [*LONG[:64], 1], 8), submit("z", LONG[:50], 8))
    for _ in range(steps):
        world.step()
    world.send(*(Abort(rid) for rid in "xyz" if rid in world.scheduler.requests or steps == 0))
    world.drain()
    for rid, prompt in (("x", LONG[:100]), ("y", [*LONG[:64], 1]), ("z", LONG[:50])):
        outcome = world.outcomes[rid]
        assert outcome.finish is not None
        assert outcome.tokens == expected(prompt, 8)[: len(outcome.tokens)]
    assert not world.executor.damage


def test_what_a_text_stop_cut_is_not_in_the_cache() -> None:
    world = World(depth=1)
    world.send(submit("a", [1, 2, 7], 40))
    while len(world.outcomes["a"].tokens) < 10:
        world.step()
    told = list(world.outcomes["a"].tokens)
    world.send(Abort("a", keep=4))
    world.drain()
    world.send(submit("b", [1, 2, 7, *told, 5], 1))
    world.drain()
    assert world.outcomes["b"].cached == 3 + 4


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_text_stop_counts_even_after_the_request_has_ended(depth: int) -> None:
    """The engine was faster: it had reached the length when the word came that the text ended at token 4."""
    world = World(depth=depth)
    world.send(submit("a", [1, 2, 7], 8, params={"stop": "x"}))
    while world.outcomes["a"].finish is None:
        world.step()
    for _ in range(3):
        world.step()
    assert not world.scheduler.is_idle
    told = list(world.outcomes["a"].tokens)
    world.send(Abort("a", keep=4))
    world.drain()
    world.send(submit("b", [1, 2, 7, *told, 5], 1))
    world.drain()
    assert world.outcomes["b"].cached == 3 + 4


def test_without_a_last_word_no_output_is_shared() -> None:
    world = World()
    now = [0.0]
    world.scheduler.clock = lambda: now[0]
    world.send(submit("a", [1, 2, 7], 8, params={"stop": "x"}))
    while world.outcomes["a"].finish is None:
        world.step()
    now[0] = 10.0
    world.drain()
    world.send(submit("b", [1, 2, 7, *world.outcomes["a"].tokens], 1))
    world.drain()
    assert world.outcomes["b"].cached == 3


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("how", ["preempt", "abort", "catch up"])
def test_output_that_its_text_may_yet_undo_is_not_shared(how: str, page_size: int) -> None:
    world = World(depth=1, page_size=page_size, chunk=4)
    world.send(submit("a", [1, 2, 7], 40, params={"stop": "x", **GO_ON}))
    while len(world.outcomes["a"].tokens) < 20:
        world.step()
    told = list(world.outcomes["a"].tokens)
    if how == "abort":
        world.send(Abort("a"))
        world.drain()
    else:
        world.scheduler.preempt_all()
    for _ in range(4 if how == "catch up" else 0):
        world.step()
    assert world.ledger.match(pack([1, 2, 7, *told]), "").tokens == 3
    world.send(Abort("a"))
    world.drain()


def test_a_text_stop_is_exact_after_a_preemption() -> None:
    world = World(depth=1)
    world.send(submit("a", [1, 2, 7], 40, params={"stop": "x", **GO_ON}))
    while len(world.outcomes["a"].tokens) < 10:
        world.step()
    world.scheduler.preempt_all()
    while not world.scheduler.running or len(world.outcomes["a"].tokens) < 12:
        world.step()
    told = list(world.outcomes["a"].tokens)
    world.send(Abort("a", keep=11))
    world.drain()
    assert world.ledger.match(pack([1, 2, 7, *told]), "").tokens == 3 + 11


def test_lingering_requests_make_room() -> None:
    world = World(pool=32, page_size=16)
    world.send(submit("a", [1, 2, 7], 20, params={"stop": "x", **GO_ON}))
    while world.outcomes["a"].finish is None:
        world.step()
    world.send(submit("b", [9] * 20, 8, params=GO_ON))
    world.drain()
    assert world.outcomes["b"].finish == Finish.at_length(8)


def test_abort_of_the_unknown_is_nothing() -> None:
    world = World()
    world.send(Abort("nobody"))
    world.drain()


# -- prefixes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("shared", [1, 15, 16, 17, 40, 99])
def test_reuse_is_exact_to_the_token(page_size: int, shared: int) -> None:
    world = World(page_size=page_size)
    world.send(submit("a", LONG[:100], 1))
    world.drain()
    world.send(submit("b", [*LONG[:shared], 0, 0, 0], 4))
    world.drain()
    assert world.outcomes["b"].cached == shared
    assert world.outcomes["b"].tokens == expected([*LONG[:shared], 0, 0, 0], 4)


def test_the_last_prompt_token_is_always_computed() -> None:
    world = World(page_size=16)
    for rid in "ab":
        world.send(submit(rid, LONG[:64], 3))
        world.drain()
    assert world.outcomes["b"].cached == 63


def test_salts_share_nothing() -> None:
    world = World()
    for rid, salt in (("a", ""), ("b", "tenant"), ("c", "tenant")):
        world.send(submit(rid, LONG[:50], 1, salt=salt))
        world.drain()
    assert [world.outcomes[rid].cached for rid in "abc"] == [0, 0, 49]
    world.ledger.flush()
    assert len(world.ledger.cache._roots) == 0  # type: ignore[attr-defined]


def test_flush_forgets() -> None:
    world = World()
    world.send(submit("a", LONG[:50], 1))
    world.drain()
    assert world.ledger.flush() == 50
    assert len(world.ledger.pool) == world.ledger.total
    world.send(submit("b", LONG[:50], 1))
    world.drain()
    assert world.outcomes["b"].cached == 0


def test_logprobs_of_the_prompt_are_computed_not_matched() -> None:
    world = World(page_size=16, chunk=16)
    world.send(submit("warm", LONG[:100], 1))
    world.drain()
    world.send(submit("a", LONG[:100], 1, logprobs=LogprobsWanted(start=90)))
    world.drain()
    assert world.outcomes["a"].cached == 89
    (scored,) = world.outcomes["a"].prompt_logprobs
    assert (scored.start, scored.values) == (90, [-float(i) for i in range(90, 100)])
    world.send(submit("all", LONG[:100], 1, logprobs=LogprobsWanted(start=0)))
    world.drain()
    (scored,) = world.outcomes["all"].prompt_logprobs
    assert world.outcomes["all"].cached == 0
    assert (scored.start, len(scored.values)) == (1, 99)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_logprobs_come_once_over_a_preemption(depth: int) -> None:
    world = World(page_size=16, pool=208, chunk=16, rows=3, depth=depth, reuse=False)
    for n in range(3):
        world.send(submit(f"r{n}", [n + 8, *LONG[:70]], 90, params=GO_ON, logprobs=LogprobsWanted(start=5)))
    world.drain()
    assert world.scheduler.counts.preemptions
    for n in range(3):
        values = [value for scored in world.outcomes[f"r{n}"].prompt_logprobs for value in scored.values]
        assert values == [-float(i) for i in range(5, 71)]


# -- followers -------------------------------------------------------------------------------------------------------


def test_simultaneous_requests_share_one_prefill() -> None:
    world = World(page_size=16, chunk=32, rows=8)
    for n in range(8):
        world.send(submit(f"r{n}", [*LONG[:160], n], 3))
    world.drain()
    assert [world.outcomes[f"r{n}"].cached for n in range(8)] == [0] + [160] * 7
    assert world.scheduler.counts.computed_tokens < 160 + 8 * 4


def test_a_short_common_prefix_is_not_worth_waiting_for() -> None:
    world = World(page_size=1, rows=8)
    world.send(submit("a", [*LONG[:31], 1], 3), submit("b", [*LONG[:31], 2], 3))
    world.step()
    assert len(world.scheduler.running) == 2


@pytest.mark.parametrize("how", ["abort", "preempt", "fail"])
def test_followers_are_released_when_the_leader_is_gone(how: str) -> None:
    stem = LONG[:150]
    world = World(page_size=16, chunk=16)
    world.send(submit("leader", [*stem, 1], 3), submit("follower", [*stem, 2], 3))
    world.step()
    assert [r.id for r in world.scheduler.running] == ["leader"]
    if how == "abort":
        world.send(Abort("leader"))
    elif how == "preempt":
        world.scheduler._preempt(world.request("leader"))
        world.scheduler.gates.append(_Only({"follower"}))
    else:
        world.executor.run = _raising(world.executor, times=2)  # type: ignore[method-assign]
    for _ in range(4):
        world.step()
    assert "follower" in {r.id for r in world.scheduler.running}
    world.scheduler.gates[1:] = []
    world.drain()
    assert world.outcomes["follower"].tokens == expected([*stem, 2], 3)


def test_nobody_waits_behind_a_lower_priority() -> None:
    world = World(page_size=16, chunk=16)
    world.send(submit("leader", [*LONG[:150], 1], 3))
    world.step()
    world.send(submit("follower", [*LONG[:150], 2], 3, priority=1))
    world.step()
    assert len(world.scheduler.running) == 2


class _Only:
    def __init__(self, ids: set[str]) -> None:
        self.ids = ids

    def verdict(self, request: Request, running: object) -> Verdict:
        return GO if request.id in self.ids else Wait("not its turn")


class _Never:
    def verdict(self, request: Request, running: object) -> Verdict:
        return Refuse(BadRequest("not this one")) if request.id == "bad" else GO


def test_gates_hold_back_and_refuse() -> None:
    world = World()
    world.scheduler.gates += [_Only({"a", "bad"}), _Never()]
    world.send(*(submit(rid, [n + 8], 2) for n, rid in enumerate(("held", "bad", "a"))))
    for _ in range(6):
        world.step()
    assert world.outcomes["a"].finish is not None
    assert world.outcomes["held"].finish is None
    refused = world.outcomes["bad"].finish
    assert refused is not None
    assert refused.message == "not this one"


# -- order -----------------------------------------------------------------------------------------------------------


def order_of(policy: str, *requests: tuple) -> list[str]:
    world = World(rows=1, policy=policy)
    world.send(submit("first", [9, 9], 1))
    world.drain()
    world.send(submit("cached", LONG[:60], 1))
    world.drain()
    world.finished_order.clear()
    world.send(*(submit(rid, tokens, max_new, priority=priority) for rid, tokens, max_new, priority in requests))
    world.loop.take_messages()
    world.drain()
    return world.finished_order


REQUESTS = (
    ("plain", [8, 1, 2, 3], 1, 0),
    ("matched", [*LONG[:60], 4], 2, 0),
    ("half", [*LONG[:30], 4], 3, 0),
    ("urgent", [3, 3, 3], 1, 5),
)


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("fcfs", ["urgent", "plain", "matched", "half"]),
        ("priority", ["urgent", "plain", "matched", "half"]),
        ("lpm", ["urgent", "matched", "half", "plain"]),
        ("lof", ["urgent", "half", "matched", "plain"]),
    ],
)
def test_policies(policy: str, order: list[str]) -> None:
    assert order_of(policy, *REQUESTS) == order


def test_dfs_weight_takes_the_heavier_branch_first() -> None:
    light, heavy = [1] * 20, [2] * 20
    world = World(rows=1, policy="dfs-weight", page_size=4)
    for rid, stem in (("l", light), ("h", heavy)):
        world.send(submit(rid, stem, 1))
        world.drain()
    world.finished_order.clear()
    world.send(submit("l1", [*light, 5], 1), *(submit(f"h{n}", [*heavy, n + 8], 1) for n in range(3)))
    world.loop.take_messages()
    world.drain()
    assert world.finished_order[:2] == ["h0", "h1"]  # then each branch has one


def test_random_is_a_fixed_shuffle() -> None:
    requests = [(f"r{n}", [n + 8, 3], 1, 0) for n in range(8)]
    assert order_of("random", *requests) == order_of("random", *requests)
    assert order_of("random", *requests) != [f"r{n}" for n in range(8)]


def test_every_policy_can_be_made() -> None:
    for name in POLICIES:
        make_policy(name)


def test_a_higher_priority_pushes_out_a_lower() -> None:
    world = World(rows=1, policy="priority", page_size=16)
    world.send(submit("low", LONG[:50], 30))
    for _ in range(4):
        world.step()
    world.send(submit("high", [8, 9], 2, priority=1))
    world.drain()
    assert world.finished_order == ["high", "low"]
    assert world.outcomes["low"].preempted == 1
    assert world.outcomes["low"].tokens == expected(LONG[:50], 30)


def test_the_youngest_is_preempted_and_the_oldest_never() -> None:
    world = World(pool=160, page_size=16, rows=4, chunk=64)
    for n in range(4):
        world.send(submit(f"r{n}", [n + 8, *LONG[:20]], 100, params=GO_ON))
    world.drain()
    assert world.scheduler.counts.preemptions
    assert world.outcomes["r0"].preempted == 0
    assert world.outcomes["r3"].preempted > 0


# -- when steps raise ------------------------------------------------------------------------------------------------

BAD = 13


class Poisoned(FakeExecutor):
    """Any step with a request whose prompt begins with BAD raises."""

    def run(self, plan: Plan) -> object:  # type: ignore[override]
        starts = {new.slot: new.tokens[0] for new in plan.opened}
        bad = [row for row in plan.rows if (starts.get(row.slot) or self.slots[row.slot].tokens[0]) == BAD]
        if bad:
            raise RuntimeError("boom")
        return super().run(plan)


def _raising(executor: FakeExecutor, times: int = 1):  # type: ignore[no-untyped-def]
    run, left = executor.run, [times]

    def run_or_raise(plan: Plan):  # type: ignore[no-untyped-def]
        left[0] -= 1
        if left[0] < 0:
            return run(plan)
        raise RuntimeError("this time")

    return run_or_raise


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("page_size", [1, 16])
def test_a_request_that_breaks_the_step_ends_alone(
    depth: int, page_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(depth=depth, page_size=page_size, executor_class=Poisoned, chunk=32)
    good = {f"good{n}": [n + 20, *LONG[:40]] for n in range(5)}
    world.send(*(submit(rid, tokens, 12) for rid, tokens in good.items()))
    world.step()
    world.step()
    world.send(submit("bad", [BAD, *LONG[:90]], 12), submit("late", [2, 3, 4], 12))
    world.drain()
    finish = world.outcomes["bad"].finish
    assert finish is not None
    assert (finish.type, finish.status) == ("abort", 500)
    assert finish.message == "internal error (request bad)"
    assert "of requests bad: boom" in caplog.text
    for rid, tokens in {**good, "late": [2, 3, 4]}.items():
        assert world.outcomes[rid].tokens == expected(tokens, 12)
    assert not world.executor.damage


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_step_that_fails_once_costs_nobody_anything(depth: int) -> None:
    world = World(depth=depth)
    made = {f"r{n}": [n + 20, *LONG[:40]] for n in range(4)}
    world.send(*(submit(rid, tokens, 12) for rid, tokens in made.items()))
    for _ in range(4):
        world.step()
    world.executor.run = _raising(world.executor)  # type: ignore[method-assign]
    world.drain()
    for rid, tokens in made.items():
        assert world.outcomes[rid].tokens == expected(tokens, 12)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_launch_that_raises(depth: int) -> None:
    world = World(depth=depth)
    world.send(submit("a", LONG[:20], 12), submit("b", [1, 2, 7], 12))
    for _ in range(3):
        world.step()
    launch, calls = world.executor.launch, []

    def fails_once(plan: Plan) -> None:
        calls.append(plan)
        if len(calls) == 1:
            raise RuntimeError("no launch")
        launch(plan)

    world.executor.launch = fails_once  # type: ignore[method-assign]
    world.drain()
    assert world.outcomes["a"].tokens == expected(LONG[:20], 12)
    assert world.outcomes["b"].tokens == expected([1, 2, 7], 12)


def test_a_fault_of_one_row_ends_that_row() -> None:
    class Nan(FakeExecutor):
        def run(self, plan: Plan):  # type: ignore[no-untyped-def]
            result = super().run(plan)
            for index, row in enumerate(plan.rows):
                if self.slots[row.slot].tokens[0] == BAD:
                    result.faults[index] = "NaN in the logits"
            return result

    world = World(executor_class=Nan, depth=1)
    world.send(submit("bad", [BAD, 1, 2], 12), submit("good", [1, 2, 7], 12))
    world.drain()
    finish = world.outcomes["bad"].finish
    assert finish is not None
    assert finish.message == "NaN in the logits"
    assert world.outcomes["good"].tokens == expected([1, 2, 7], 12)


def test_wrong_books_at_idle_are_repaired(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.send(submit("a", [1, 2, 7], 3))
    world.drain()
    world.ledger.pool.take(5)
    world.loop._prove_books()
    assert "page accounting is wrong" in caplog.text
    assert len(world.ledger.pool) == world.ledger.total
    world.send(submit("b", [1, 2, 7], 3))
    world.drain()
    assert world.outcomes["b"].tokens == expected([1, 2, 7], 3)


def test_replies_come_at_the_stride_that_was_asked_for() -> None:
    world = World()
    world.send(
        submit("all", [1, 2, 7], 9, stride=1),
        submit("end", [1, 2, 8], 9, stride=0),
        submit("four", [1, 2, 9], 9, stride=4),
    )
    seen: dict[str, list[int]] = {}
    while not world.scheduler.is_idle or not seen:
        before = {rid: len(outcome.tokens) for rid, outcome in world.outcomes.items()}
        world.step()
        for rid, outcome in world.outcomes.items():
            if len(outcome.tokens) > before[rid]:
                seen.setdefault(rid, []).append(len(outcome.tokens) - before[rid])
    assert seen == {"all": [1] * 9, "end": [9], "four": [1, 4, 4]}
