"""A tree of turns: what a turn goes on from, who is given up for it, and when a turn is over."""

from __future__ import annotations

import random
from typing import Any

import pytest
from controlled import Controlled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import Outcome, expected, submit

from ramify.engine import sessions as module
from ramify.wire.messages import Abort, Control, Submit, Turn


class Talk(Controlled):
    """An API worker's part: asks for the prompt of a turn, adds what is new, and submits it."""

    def open_session(self, capacity: int = 1000, name: str | None = "s", timeout: float | None = None) -> str:
        return self.order("open_session", session_id=name, capacity=capacity, timeout=timeout)

    def prompt(self, after: str | None, **params: Any) -> dict[str, Any]:
        given = {"session": "s", "after": after, "replace": False, "offset": None, "drop_output": False, **params}
        return given

    def turn(
        self, rid: str, new: list[int], after: str | None = None, *, max_new: int = 4, stop: bool = False, **params: Any
    ) -> list[int]:
        """Sends a turn; returns its whole prompt."""
        asked = self.prompt(after, **params)
        known = self.order("session_prompt", **asked) if after is not None else []
        sampling: dict[str, Any] = {"ignore_eos": True} | ({"stop": ["x"]} if stop else {})
        place = Turn(asked["session"], after, asked["replace"])
        self.outcomes[rid] = Outcome()
        self.send(submit(rid, known + new, max_new, params=sampling, turn=place))
        return known + new

    def whole_turn(self, rid: str, new: list[int], after: str | None = None, **more: Any) -> list[int]:
        """The same until it is over; returns all its tokens."""
        prompt = self.turn(rid, new, after, **more)
        self.drain()
        finish = self.outcomes[rid].finish
        assert finish is not None
        assert finish.status is None, finish
        assert self.outcomes[rid].tokens == expected(prompt, len(self.outcomes[rid].tokens), ignore_eos=True)
        return prompt + self.outcomes[rid].tokens

    def known(self, after: str, **params: Any) -> list[int]:
        return self.order("session_prompt", **self.prompt(after, **params))

    def failed(self, rid: str) -> str:
        self.step()
        finish = self.outcomes[rid].finish
        assert finish is not None
        assert finish.is_error
        return finish.message or ""


@pytest.fixture
def talk() -> Talk:
    made = Talk(page_size=4, depth=1)
    made.open_session()
    return made


def test_a_turn_goes_on_from_another(talk: Talk) -> None:
    a = talk.whole_turn("a", [1, 2, 3])
    assert talk.known("a") == a
    b = talk.whole_turn("b", [9, 9], "a")
    assert b[: len(a) + 2] == [*a, 9, 9]
    assert talk.outcomes["b"].cached >= len(a) - 1  # the last token of a turn is computed by the next
    assert talk.known("b") == b
    assert talk.known("a") == a


def test_offsets_and_dropped_output(talk: Talk) -> None:
    a = talk.whole_turn("a", [1, 2, 3], max_new=5)
    assert talk.known("a", offset=0) == a
    assert talk.known("a", offset=-1) == a[:-1]
    assert talk.known("a", offset=4) == a[:4]
    assert talk.known("a", offset=99) == a
    assert talk.known("a", drop_output=True) == [1, 2, 3]
    assert talk.known("a", drop_output=True, offset=2) == [1, 2]
    b = talk.whole_turn("b", [7], "a", offset=2)
    assert b[:3] == [1, 2, 7]
    assert talk.known("b") == b
    assert talk.known("b", drop_output=True) == [1, 2, 7]


def test_branches_live_side_by_side(talk: Talk) -> None:
    a = talk.whole_turn("a", [1, 2, 3])
    b, c = talk.whole_turn("b", [4], "a"), talk.whole_turn("c", [5], "a")
    d = talk.whole_turn("d", [6], "b")
    other = talk.whole_turn("other", [8, 8])
    assert [talk.known(rid) for rid in ("a", "b", "c", "d", "other")] == [a, b, c, d, other]


def test_replace_gives_up_what_came_after(talk: Talk) -> None:
    a = talk.whole_turn("a", [1, 2, 3])
    talk.whole_turn("b", [4], "a")
    talk.whole_turn("c", [5], "b")
    talk.whole_turn("alone", [8])
    d = talk.whole_turn("d", [6], "a", replace=True)
    assert talk.known("a") == a
    assert talk.known("d") == d
    assert talk.known("alone")
    for gone in ("b", "c"):
        assert "has no turn" in talk.refused("session_prompt", **talk.prompt(gone))
    talk.whole_turn("new", [1], replace=True)
    for gone in ("a", "d", "alone"):
        assert "has no turn" in talk.refused("session_prompt", **talk.prompt(gone))


def test_replace_ends_what_runs_after(talk: Talk) -> None:
    talk.whole_turn("a", [1, 2, 3])
    talk.turn("b", [4], "a", max_new=100)
    for _ in range(5):
        talk.step()
    talk.whole_turn("c", [5], "a", replace=True)
    finish = talk.outcomes["b"].finish
    assert finish is not None
    assert (finish.type, finish.status) == ("abort", None)
    assert "has no turn" in talk.refused("session_prompt", **talk.prompt("b"))


def test_replace_ends_a_turn_that_runs_and_keeps_what_it_has(talk: Talk) -> None:
    talk.turn("a", [1, 2, 3], max_new=100)
    for _ in range(5):
        talk.step()
    assert "has not finished" in talk.refused("session_prompt", **talk.prompt("a"))
    b = talk.whole_turn("b", [9], "a", replace=True)
    a = [1, 2, 3, *talk.outcomes["a"].tokens]
    assert len(a) > 3
    assert b[: len(a) + 1] == [*a, 9]
    assert talk.known("a") == a


def test_a_turn_in_the_queue_can_be_replaced(talk: Talk) -> None:
    talk.order("pause", mode="in_place")
    talk.turn("a", [1, 2, 3])
    talk.step()
    assert talk.known("a", replace=True) == [1, 2, 3]


@pytest.mark.parametrize("depth", [0, 1])
def test_text_that_ended_a_turn_is_not_followed_by_what_came_after_it(depth: int) -> None:
    """The engine has gone further than the text; the session holds what the client got."""
    talk = Talk(depth=depth)
    talk.open_session()
    prompt = talk.turn("a", [1, 2, 3], max_new=50, stop=True)
    while len(talk.outcomes["a"].tokens) < 6:
        talk.step()
    talk.send(Abort("a", keep=4))
    talk.step()
    assert talk.known("a") == prompt + talk.outcomes["a"].tokens[:4]


def test_text_may_end_a_turn_that_the_engine_has_ended(talk: Talk) -> None:
    prompt = talk.turn("a", [1, 2, 3], max_new=6, stop=True)
    while talk.outcomes["a"].finish is None:
        talk.step()
    ticket = talk.send_order("session_prompt", **talk.prompt("a"))
    talk.step()
    assert ticket not in talk.answers  # the API worker has not said how much of it there is
    talk.send(Abort("a", keep=2))
    talk.step()
    assert talk.answers[ticket].value == prompt + talk.outcomes["a"].tokens[:2]


def test_pages_may_go_before_the_last_word_comes(talk: Talk) -> None:
    prompt = talk.turn("a", [1, 2, 3], max_new=6, stop=True)
    while talk.outcomes["a"].finish is None:
        talk.step()
    talk.scheduler._expire_lingering(everybody=True)
    talk.send(Abort("a", keep=6))
    talk.step()
    assert talk.known("a") == prompt + talk.outcomes["a"].tokens


def test_without_a_last_word_nobody_goes_on(talk: Talk) -> None:
    talk.turn("a", [1, 2, 3], max_new=6, stop=True)
    while talk.outcomes["a"].finish is None:
        talk.step()
    ticket = talk.send_order("session_prompt", **talk.prompt("a"))
    talk.step()
    talk.now = module.LAST_WORD
    talk.step()
    assert "not known" in (talk.answers[ticket].error or "")


def test_turns_of_a_worker_that_died_before_its_last_word_are_none(talk: Talk) -> None:
    talk.turn("a", [1, 2, 3], max_new=6, stop=True)
    talk.turn("b", [1, 2, 3], max_new=60)
    while talk.outcomes["a"].finish is None:
        talk.step()
    ticket = talk.send_order("session_prompt", **talk.prompt("a"))
    talk.client.send(Control(99, 0, "adopt"))
    talk.step()
    assert "has no turn" in (talk.answers[ticket].error or "")
    assert talk.scheduler.is_idle
    assert talk.known("b")[:3] == [1, 2, 3]  # its tokens are what they are


def test_a_replaced_turn_with_text_stops_waits_for_its_last_word(talk: Talk) -> None:
    prompt = talk.turn("a", [1, 2, 3], max_new=90, stop=True)
    while len(talk.outcomes["a"].tokens) < 5:
        talk.step()
    ticket = talk.send_order("session_prompt", **talk.prompt("a", replace=True))
    talk.step()
    assert talk.outcomes["a"].finish is not None
    assert ticket not in talk.answers
    talk.send(Abort("a", keep=3))
    talk.step()
    assert talk.answers[ticket].value == prompt + talk.outcomes["a"].tokens[:3]


def test_a_client_that_leaves_has_what_was_delivered(talk: Talk) -> None:
    prompt = talk.turn("a", [1, 2, 3], max_new=90)
    while len(talk.outcomes["a"].tokens) < 8:
        talk.step()
    talk.send(Abort("a", keep=5))
    talk.step()
    assert talk.known("a") == prompt + talk.outcomes["a"].tokens[:5]


def test_a_turn_that_failed_is_none() -> None:
    talk = Talk(pool=16)
    talk.open_session()
    talk.turn("a", [1] * 20)
    assert "KV cache" in talk.failed("a")
    assert "has no turn" in talk.refused("session_prompt", **talk.prompt("a"))


def test_what_is_refused(talk: Talk) -> None:
    talk.whole_turn("a", [1, 2, 3])
    talk.send(submit("x", [1], turn=Turn("nowhere")))
    assert "'nowhere' does not exist" in talk.failed("x")
    talk.send(submit("y", [1], turn=Turn("s", "nobody")))
    assert "has no turn 'nobody'" in talk.failed("y")
    talk.turn("a", [1])
    assert "there is a turn 'a' already" in talk.failed("a")
    assert "does not exist" in talk.refused("session_prompt", **talk.prompt("a", session="nowhere"))
    talk.whole_turn("a", [1, 2], replace=True)  # the one of that name goes
    assert len(talk.known("a")) == 6


def test_a_submission_that_is_refused_changes_nothing(talk: Talk) -> None:
    talk.whole_turn("a", [1, 2, 3])
    talk.whole_turn("b", [1], "a")
    talk.scheduler.max_queued = 0
    talk.send(submit("c", [1], turn=Turn("s", "a", replace=True)))
    assert "queue is full" in talk.failed("c")
    talk.scheduler.max_queued = None
    assert talk.known("b")
    assert "has no turn" in talk.refused("session_prompt", **talk.prompt("c"))


def test_a_name_is_taken_until_its_session_is_closed(talk: Talk) -> None:
    assert "same id" in talk.refused("open_session", session_id="s", capacity=5, timeout=None)
    made = talk.open_session(name=None)
    assert len(made) == 32
    talk.whole_turn("a", [1])
    talk.order("close_session", session_id="s")
    talk.order("close_session", session_id="s")
    assert "does not exist" in talk.refused("session_prompt", **talk.prompt("a"))
    assert talk.open_session() == "s"
    assert "has no turn" in talk.refused("session_prompt", **talk.prompt("a"))


def test_what_runs_of_a_closed_session_goes_on(talk: Talk) -> None:
    talk.turn("a", [1, 2, 3], max_new=20)
    talk.step()
    talk.order("close_session", session_id="s")
    talk.drain()
    assert talk.outcomes["a"].tokens == expected([1, 2, 3], 20, ignore_eos=True)
    assert talk.sessions.held == 0
    assert not talk.sessions._active


def test_capacity_counts_every_token_once() -> None:
    talk = Talk()
    talk.open_session(capacity=20)
    a = talk.whole_turn("a", [1, 2, 3], max_new=7)
    talk.whole_turn("b", [4], "a", max_new=3)
    talk.whole_turn("c", [5], "a", max_new=3)
    assert talk.sessions.held == 18
    talk.turn("e", [6, 6, 6], "a")
    assert "is full: it holds 18 tokens in 3 turns" in talk.failed("e")
    d = talk.whole_turn("d", [6, 6, 6], "a", replace=True)  # room is made by what it replaces
    assert d[:13] == [*a, 6, 6, 6]
    assert talk.sessions.held == 17
    talk.order("close_session", session_id="s")
    assert talk.sessions.held == 0


def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    monkeypatch.setattr(module, "MAX_TURNS", 2)
    monkeypatch.setattr(module, "MAX_TOKENS", 30)
    talk = Talk()
    talk.open_session()
    talk.open_session(name="t")
    assert "as many as there can be" in talk.refused("open_session", session_id="u", capacity=5, timeout=None)
    talk.whole_turn("a", [1, 2])
    talk.whole_turn("b", [1, 2], "a")
    talk.turn("c", [1], "a")
    assert "is full" in talk.failed("c")
    talk.send(submit("d", [1] * 20, turn=Turn("t")))
    assert "open sessions hold 30 tokens" in talk.failed("d")


def test_unused_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk()
    talk.open_session(timeout=10)
    talk.open_session(name="long")
    talk.now = 9
    talk.whole_turn("a", [1])
    talk.now = 18
    assert talk.known("a")
    talk.turn("b", [1], "a", max_new=30)
    talk.step()
    talk.now = 50
    assert len(talk.sessions) == 2
    talk.drain()  # a session in use does not end
    talk.now = 59
    assert talk.known("b")
    talk.now = 70
    assert "timed out" in talk.refused("session_prompt", **talk.prompt("b"))
    assert len(talk.sessions) == 1
    talk.now = 18 + module.DAY
    talk.open_session(name="new")
    assert len(talk.sessions) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), depth=st.integers(0, 2), page_size=st.sampled_from([1, 16]), tight=st.booleans())
def test_a_session_is_what_a_client_would_have_kept(seed: int, depth: int, page_size: int, tight: bool) -> None:
    """Against a model that keeps every turn whole."""
    rnd = random.Random(seed)
    talk = Talk(depth=depth, page_size=page_size, pool=192 if tight else 4096, rows=4)
    talk.open_session(capacity=10**6)
    kept: dict[str, tuple[str | None, list[int], int]] = {}  # after, tokens, prompt
    for number in range(15):
        rid, after = f"t{number}", rnd.choice([None, *kept])
        replace, drop = rnd.random() < 0.2, rnd.random() < 0.2
        offset = rnd.choice([None, None, 0, -1, rnd.randrange(1, 20)])
        new = [rnd.randrange(50) for _ in range(rnd.randrange(1, 6))]
        stop = rnd.random() < 0.4
        base: list[int] = []
        if after is not None:
            base = kept[after][1][: kept[after][2]] if drop else kept[after][1]
            base = base[:offset] if offset else base
        more = {"replace": replace, "drop_output": drop, "offset": offset, "stop": stop}
        prompt = talk.turn(rid, new, after, max_new=rnd.randrange(0, 8), **more)
        assert prompt == base + new
        while talk.outcomes[rid].finish is None:
            talk.step()
        output = talk.outcomes[rid].tokens
        if stop:
            output = output[: rnd.randrange(len(output) + 1)]
            talk.send(Abort(rid, keep=len(output)))
        if replace:
            gone = set(kept) if after is None else _below(kept, after)
            kept = {name: turn for name, turn in kept.items() if name not in gone}
        kept[rid] = after, prompt + output, len(prompt)
    talk.drain()
    assert {rid: talk.known(rid) for rid in kept} == {rid: turn[1] for rid, turn in kept.items()}
    assert set(talk.sessions._open["s"].turns) == set(kept)
    assert talk.sessions.held == sum(len(node.own) for node in talk.sessions._open["s"].turns.values())
    assert not talk.sessions._active


def _below(kept: dict[str, tuple[str | None, list[int], int]], rid: str) -> set[str]:
    below = {name for name, turn in kept.items() if turn[0] == rid}
    return below.union(*(_below(kept, name) for name in below))


def test_a_submit_without_a_turn_is_no_business_of_sessions(talk: Talk) -> None:
    message: Submit = submit("plain", [1, 2, 3], 4)
    talk.send(message)
    talk.drain()
    assert not talk.sessions._active
    assert talk.sessions.held == 0
