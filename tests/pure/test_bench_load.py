"""The client and the load of `ramify bench serve`, against a server that says what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ramify.bench.backends import COMPLETIONS, NATIVE, Asking
from ramify.bench.client import Client, Exchange
from ramify.bench.datasets import Conversation, Turn
from ramify.bench.discover import choose_backend, discover
from ramify.bench.load import Load
from ramify.bench.options import TargetOptions
from ramify.bench.record import Record
from ramify.core.errors import StartupError

ASKING = Asking("m")
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Respond = Callable[["Talk"], Awaitable[None]]


class Talk:
    """One request, and the connection to answer it on."""

    def __init__(self, path: str, body: Any, writer: asyncio.StreamWriter) -> None:
        self.path, self.body, self._writer = path, body, writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def whole(self, status: str, kind: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        await self.raw(head.encode() + body)

    async def tokens(self, count: int, usage: dict[str, Any] | None = None) -> None:
        """A whole answer of the completions route, one token per event."""
        await self.raw(OK)
        for number in range(count):
            await self.chunk(event({"choices": [{"text": "x", "finish_reason": end(number, count)}]}))
        if usage is not None:
            await self.chunk(event({"choices": [], "usage": usage}))
        await self.chunk(b"data: [DONE]\n\n")
        await self.raw(b"0\r\n\r\n")


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def end(number: int, count: int) -> str | None:
    return "length" if number == count - 1 else None


async def served(respond: Respond, work: Callable[[str], Awaitable[Any]]) -> Any:
    """Runs `work` with the address of a server; a connection on which `respond` returns serves the next request."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                sizes = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
                body = await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else b"null"
                await respond(Talk(head.split()[1].decode(), json.loads(body), writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        return await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


def asked(respond: Respond, *, timeout: float = 20.0, backend: Any = COMPLETIONS) -> Exchange:
    """One request, answered by `respond`."""

    async def work(url: str) -> Exchange:
        async with Client(url, "secret", timeout) as client:
            return await client.ask(backend, backend.request(ASKING, [], "hi", 3))

    return asyncio.run(served(respond, work))


def run(
    respond: Respond, conversations: list[Conversation], due: list[float] | None = None, **more: Any
) -> list[Record]:
    async def work(url: str) -> list[Record]:
        async with Client(url, None, 20.0) as client:
            load = Load(client, COMPLETIONS, ASKING, **more)
            await load.run(conversations, due or [0.0] * len(conversations))
            return load.records

    return asyncio.run(served(respond, work))


def single(name: str = "hi", output: int = 3) -> Conversation:
    return Conversation((Turn(name, None, output),))


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


async def good(talk: Talk) -> None:
    await talk.tokens(3, USAGE)


def test_a_whole_answer() -> None:
    found = asked(good)
    assert found.error is None
    assert (found.status, found.answer.text, found.answer.output_tokens) == (200, "xxx", 3)
    assert found.answer.cached_tokens == 2
    assert len(found.stamps) == 3
    assert found.last is not None
    assert found.sent <= found.stamps[0] <= found.stamps[-1] <= found.last <= found.ended


def test_the_clock_tells_chunks_apart() -> None:
    gap = 0.05

    async def slowly(talk: Talk) -> None:
        await talk.raw(OK)
        for number in range(3):
            await asyncio.sleep(gap)
            await talk.chunk(event({"choices": [{"text": "x", "finish_reason": end(number, 3)}]}))
        await talk.raw(b"0\r\n\r\n")

    found = asked(slowly)
    assert found.error is None
    assert found.stamps[0] - found.sent >= gap * 0.99
    assert found.stamps[-1] - found.sent >= 3 * gap * 0.99


async def breaks_off(talk: Talk) -> None:
    await talk.raw(OK)
    await talk.chunk(event({"choices": [{"text": "x"}]}))
    await talk.raw(b"0\r\n\r\n")


async def hangs_up(talk: Talk) -> None:
    await talk.raw(OK)
    await talk.chunk(event({"choices": [{"text": "x"}]}))
    raise ConnectionResetError


async def says_nothing(talk: Talk) -> None:
    raise ConnectionResetError


async def sleeps(talk: Talk) -> None:
    await talk.raw(OK)
    await asyncio.sleep(5)


async def is_full(talk: Talk) -> None:
    await talk.whole("503 Busy", "application/json", b'{"error": {"message": "the queue\\n is full"}}')


async def is_a_page(talk: Talk) -> None:
    await talk.whole("200 OK", "text/html", b"<html>hello</html>")


async def fails_inside(talk: Talk) -> None:
    await talk.raw(OK)
    await talk.chunk(event({"choices": [{"text": "x"}]}))
    await talk.chunk(event({"error": {"message": "a kernel failed"}}))
    await talk.raw(b"0\r\n\r\n")


async def has_no_tokens(talk: Talk) -> None:
    await talk.tokens(0, {"prompt_tokens": 5, "completion_tokens": 0})


async def speaks_in_bytes(talk: Talk) -> None:
    await talk.raw(OK)
    await talk.chunk(b"data: \xff\xfe{\n\n")
    await talk.raw(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("respond", "says"),
    [
        (breaks_off, "the stream ended before the answer did"),
        (hangs_up, "the connection broke in the middle of the answer"),
        (says_nothing, "closed the connection without an answer"),
        (is_full, "HTTP 503: the queue is full"),
        (is_a_page, "text/html, not a stream"),
        (fails_inside, "a kernel failed"),
        (has_no_tokens, "the answer has no tokens"),
        (speaks_in_bytes, "cannot be read"),
    ],
)
def test_what_goes_wrong_is_in_words(respond: Respond, says: str) -> None:
    found = asked(respond)
    assert found.error is not None
    assert says in found.error
    assert "\n" not in found.error


def test_patience_ends() -> None:
    assert asked(sleeps, timeout=0.2).error == "timed out"


def test_one_failure_leaves_the_others() -> None:
    async def every_third(talk: Talk) -> None:
        await (is_full(talk) if int(talk.body["prompt"]) % 3 == 0 else good(talk))

    records = run(every_third, [single(str(number)) for number in range(6)])
    assert {record.index: record.ok for record in records} == {n: n % 3 != 0 for n in range(6)}
    assert all(record.status == 503 for record in records if not record.ok)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_closed_loop_keeps_its_limit(limit: int) -> None:
    now = most = 0

    async def counting(talk: Talk) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        await good(talk)

    assert len(run(counting, [single() for _ in range(10)], concurrency=limit)) == 10
    assert most == limit


def test_an_open_loop_waits_for_nobody() -> None:
    """Requests leave when they are due, while the first has no answer yet."""
    arrived: list[str] = []

    async def all_at_last(talk: Talk) -> None:
        arrived.append(talk.body["prompt"])
        while len(arrived) < 4:
            await asyncio.sleep(0.005)
        await good(talk)

    due = [0.0, 0.02, 0.04, 0.06]
    records = run(all_at_last, [single(str(number)) for number in range(4)], due)
    assert sorted(arrived) == ["0", "1", "2", "3"]
    for record in records:
        assert record.sent >= record.due == due[record.index]


def test_turns_follow_each_other_with_all_that_was_said() -> None:
    heard: list[str] = []

    async def listening(talk: Talk) -> None:
        heard.append(talk.body["prompt"])
        await good(talk)

    talk = Conversation(tuple(Turn(word, 1, 3) for word in ("a", "b", "c")))
    records = run(listening, [talk], think_time=0.02)
    assert heard == ["a", "axxx\nb", "axxx\nbxxx\nc"]
    assert [(record.turn, record.asked_input) for record in records] == [(0, 1), (1, None), (2, None)]
    assert records[1].sent >= records[0].ended + 0.02


def test_a_failed_turn_ends_its_conversation() -> None:
    async def second_fails(talk: Talk) -> None:
        await (is_full(talk) if talk.body["prompt"].count("\n") == 1 else good(talk))

    talk = Conversation(tuple(Turn(word, None, 3) for word in ("a", "b", "c")))
    assert [(r.turn, r.ok) for r in run(second_fails, [talk])] == [(0, True), (1, False)]


def test_chunks_stand_in_for_tokens_that_nobody_counts() -> None:
    async def silent(talk: Talk) -> None:
        await talk.tokens(4)

    (record,) = run(silent, [single()])
    assert (record.ok, record.tokens, record.counted, record.text) == (True, 4, "chunks", "xxxx")


def test_stopping_keeps_what_is_done() -> None:
    async def work(url: str) -> tuple[list[Record], float]:
        async with Client(url, None, 20.0) as client:
            load = Load(client, COMPLETIONS, ASKING)
            task = asyncio.create_task(load.run([single("0"), single("1")], [0.0, 3600.0]))
            until = time.monotonic() + 20
            while not load.records and time.monotonic() < until:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return load.records, load.duration

    records, duration = asyncio.run(served(good, work))
    assert [record.ok for record in records] == [True]
    assert records[0].ended <= duration < 3600


# -- finding the server ------------------------------------------------------------------------------------------------


def found(answers: dict[str, tuple[str, Any]], **target: Any) -> Any:
    async def respond(talk: Talk) -> None:
        status, body = answers.get(talk.path, ("404 Not Found", {"detail": "Not Found"}))
        await talk.whole(status, "application/json", body if isinstance(body, bytes) else json.dumps(body).encode())

    async def work(url: str) -> Any:
        async with Client(url, None, 20.0) as client:
            return await discover(client, TargetOptions(ready_timeout=0.5, **target), lambda text: None)

    return asyncio.run(served(respond, work))


MODELS = ("200 OK", {"data": [{"id": "first", "max_model_len": 99}, {"id": "second"}]})


def test_an_openai_server() -> None:
    server = found({"/v1/models": MODELS})
    assert (server.model, server.context, server.backend) == ("first", 99, COMPLETIONS)
    assert found({"/v1/models": MODELS}, model="second").context is None


def test_a_server_with_the_native_route() -> None:
    facts = ("200 OK", {"model_path": "/somewhere", "version": "9.9"})
    server = found({"/v1/models": MODELS, "/model_info": facts})
    assert (server.backend, server.version, server.tokenizer) == (NATIVE, "9.9", None)
    assert choose_backend("vllm", {"model_path": "x"})[0] is COMPLETIONS


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({}, "no server of the OpenAI API"),
        ({"/v1/models": ("200 OK", b"<html>")}, "no server of the OpenAI API"),
        ({"/v1/models": ("200 OK", b"[" * 100_000)}, "no server of the OpenAI API"),
        ({"/v1/models": ("401 Unauthorized", {})}, "wants an API key"),
        ({"/v1/models": ("200 OK", {"data": []})}, "has no model"),
        ({"/v1/models": ("500 Oh", {})}, "no server answers"),
    ],
)
def test_what_is_no_server_to_measure(answers: dict[str, tuple[str, Any]], says: str) -> None:
    with pytest.raises(StartupError, match=says):
        found(answers)


@pytest.mark.parametrize("url", ["127.0.0.1", "foo:::", "ftp://127.0.0.1", "http://", "http://no.such.host.invalid"])
def test_addresses_that_are_none_are_refused_at_once(url: str) -> None:
    async def work() -> Any:
        options = TargetOptions(base_url=url, ready_timeout=3600)
        async with Client(options.url, None, 20.0) as client:
            return await discover(client, options, lambda text: None)

    with pytest.raises(StartupError, match="cannot be reached"):
        asyncio.run(asyncio.wait_for(work(), 20))
