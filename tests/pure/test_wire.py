"""What crosses a process comes out as it went in, and builds nothing but the structs it names."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from ramify.core.finish import Finish
from ramify.core.params import SamplingParams
from ramify.wire import codec
from ramify.wire.channel import EngineEnd, ZmqClientEnd, ZmqEngineEnd, inproc
from ramify.wire.messages import (
    Abort,
    Answer,
    Control,
    Farewell,
    FreezeGC,
    Hello,
    Logging,
    Replies,
    Reply,
    Submit,
    Times,
    Turn,
)
from ramify.wire.plan import Grant, HiddenWanted, LogprobsWanted, Opened, PageCopy, Plan, Row
from ramify.wire.result import HiddenStates, RowLogprobs, StepResult, TokenLogprobs

PARAMS = SamplingParams.parse({"temperature": 0.5, "stop": ["a", "b"], "logit_bias": {"5": 1.5}, "n": 2})
SUBMIT = Submit(
    "r",
    1,
    [1, 2, 3],
    PARAMS,
    128,
    True,
    -5,
    logprobs=LogprobsWanted(0, 2, (7, 8)),
    turn=Turn("s", "a", True),
    hidden=HiddenWanted(2, True),
)
TO_ENGINE = [SUBMIT, Abort("r"), Abort("r", keep=3), Control(4, 0, "flush", {"timeout": 1.5})]
SCORED = TokenLogprobs(3, [-1.5, -2.0], [[-1.0], [-2.0]], [[5], [6]])
STATES = HiddenStates(2, 1, b"\0\0\x80?")
TO_CLIENT = [
    Replies([Reply("r", 1, [4, 5], Finish.stop("x"), 3, 1, SCORED, None, STATES, Times(1.5, 0.0)), Reply("s", 0, [])]),
    Answer(4, {"a": [1, 2]}),
    Answer(4, error="no", status=404),
    Hello(),
    Logging("debug", True, 3, "json"),
    FreezeGC(),
    Farewell("gone"),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda m: type(m).__name__)
def test_to_the_engine(message: object) -> None:
    assert codec.decode_to_engine(codec.encode(message)) == message


@pytest.mark.parametrize("message", TO_CLIENT, ids=lambda m: type(m).__name__)
def test_to_clients(message: object) -> None:
    assert codec.decode_to_client(codec.encode(message)) == message


def test_plans_and_results() -> None:
    plan = Plan(
        3,
        [Row(0, 5, 2, True, (7,), -1), Row(1, 6, 30, False, (), 4)],
        [Opened(0, 5, [1, 2], 2, 0, PARAMS, 9, 1, LogprobsWanted(), 0)],
        [Grant(0, 0, [4, 5])],
        [PageCopy(0, 4, 5, 1)],
        [2],
    )
    assert codec.decode_plan(codec.encode(plan)) == plan
    assert plan.tokens == 32
    result = StepResult(3, [[1, 2], []], {1: RowLogprobs(SCORED, None)}, [1], {0: "NaN"}, {1: STATES})
    assert codec.decode_result(codec.encode(result)) == result


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", b"\x90", b"\x92\xa4Evil\x01", codec.encode([1, 2]), codec.encode({"a": 1})]
)
def test_frames_that_are_no_message(frame: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, msgspec.ValidationError)):
        codec.decode_to_engine(frame)


def exchange(engine, client) -> None:  # type: ignore[no-untyped-def]
    for message in TO_ENGINE:
        client.send(message)
    got: list = []
    while len(got) < len(TO_ENGINE):
        got += engine.take(5.0)
    assert got == TO_ENGINE
    assert engine.take(0) == []
    for message in TO_CLIENT[:-1]:
        engine.send(client.origin, message)
    assert [client.receive() for _ in TO_CLIENT[:-1]] == TO_CLIENT[:-1]


def test_in_one_process() -> None:
    engine, client = inproc()
    exchange(engine, client)
    engine.close()
    assert isinstance(client.receive(), Farewell)


def test_over_sockets(tmp_path: Path) -> None:
    engine = ZmqEngineEnd(tmp_path, workers=2)
    clients = [ZmqClientEnd(tmp_path, origin) for origin in range(2)]
    for client in clients:
        exchange(engine, client)
    engine.broadcast(Hello())
    assert [client.receive() for client in clients] == [Hello()] * 2
    clients[0].close("the engine has died")
    assert clients[0].receive() == Farewell("the engine has died")
    engine.close()
    assert isinstance(clients[1].receive(), Farewell)


def test_waiting_wakes_up(tmp_path: Path) -> None:
    engine, client = ZmqEngineEnd(tmp_path, workers=1), ZmqClientEnd(tmp_path, 0)
    threading.Timer(0.2, lambda: client.send(Abort("r"))).start()
    assert engine.take(None) == [Abort("r")]
    engine.close()


@pytest.mark.parametrize("kind", ["in one process", "over sockets"])
def test_any_thread_may_wake_the_engine(kind: str, tmp_path: Path) -> None:
    engine: EngineEnd = inproc()[0] if kind == "in one process" else ZmqEngineEnd(tmp_path, workers=0)
    threading.Timer(0.1, engine.wake).start()
    assert engine.take(None) == []
    engine.close()


def test_many_threads_may_send(tmp_path: Path) -> None:
    engine, client = ZmqEngineEnd(tmp_path, workers=1), ZmqClientEnd(tmp_path, 0)
    threads = [threading.Thread(target=lambda n=n: [client.send(Abort(f"{n}")) for _ in range(200)]) for n in range(4)]
    for thread in threads:
        thread.start()
    got: list = []
    while len(got) < 800:
        got += engine.take(5.0)
    for thread in threads:
        thread.join()
    assert len(got) == 800
    engine.close()
