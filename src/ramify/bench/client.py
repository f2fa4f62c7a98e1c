"""The HTTP client: one session, one task per request, the clock read once per piece that arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from ramify.bench.backends import Answer, Backend, Failed, News, error_text
from ramify.bench.sse import Events, TooLong

KEEP_ALIVE = 3.0  # seconds; under the 5 of uvicorn, which would otherwise close a connection just as it is used again
LOOK_TIMEOUT = 10.0  # seconds for questions about the server
FLUSH_TIMEOUT = 60  # seconds the server may wait to be idle
DONE = b"[DONE]"


@dataclass(slots=True)
class Exchange:
    """A request and its answer. Times are those of `perf_counter`; `error` is None if the answer is whole."""

    sent: float
    answer: Answer = field(default_factory=Answer)
    stamps: list[float] = field(default_factory=list)  # of chunks with content
    last: float | None = None  # the newest content, or the end of the answer
    ended: float = 0.0
    status: int | None = None
    error: str | None = None

    def hear(self, news: News, now: float) -> None:
        if news is News.CONTENT:
            self.stamps.append(now)
        if news is not News.NOTHING:
            self.last = now


class Client:
    """Talks to one server. `base_url` has no slash at its end; `timeout` in seconds is that of one whole answer."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self.base_url = base_url
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=None)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        # Without limits: a request that waits for a connection would count as a slow server.
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, headers=self._headers, read_bufsize=1 << 20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.close()

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used outside `async with`"
        return self._session

    async def look(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a question to the server; None where the answer is not JSON."""
        limit = aiohttp.ClientTimeout(total=LOOK_TIMEOUT)
        async with self._open.get(self.base_url + path, timeout=limit) as response:
            return response.status, _json(await response.read())

    async def flush_cache(self) -> str | None:
        """Empty the prefix cache; None if that is done, or why it is not."""
        url = f"{self.base_url}/flush_cache?timeout={FLUSH_TIMEOUT}"
        try:
            async with self._open.post(url) as response:
                body = await response.read()
                return None if response.status == 200 else _refusal(response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            return describe(e)

    async def ask(self, backend: Backend, body: bytes) -> Exchange:
        """Send a request and read its stream to the end. What goes wrong is in `error`; only cancelling raises."""
        exchange = Exchange(sent=perf_counter())
        try:
            await self._read(backend, body, exchange)
        except (Failed, TooLong) as e:
            exchange.error = str(e)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            exchange.error = describe(e)
        exchange.ended = perf_counter()
        return exchange

    async def _read(self, backend: Backend, body: bytes, exchange: Exchange) -> None:
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        async with self._open.post(self.base_url + backend.path, data=body, headers=headers) as response:
            exchange.status = response.status
            await _must_stream(response)
            events, done = Events(), False
            async for piece in response.content.iter_any():
                now = perf_counter()
                done |= _take(backend, exchange, events.feed(piece), now)
            done |= _take(backend, exchange, events.close(), perf_counter())
        _must_be_whole(exchange, done)


def _take(backend: Backend, exchange: Exchange, events: list[bytes], now: float) -> bool:
    """Whether the mark of the end was among them."""
    done = False
    for data in events:
        if data.strip() == DONE:
            done = True
        elif data:
            exchange.hear(backend.read(exchange.answer, data), now)
    return done


async def _must_stream(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise Failed(_refusal(response.status, await response.read()))
    if response.content_type != "text/event-stream":
        said = _json(await response.read())
        why = f": {error_text(said)}" if isinstance(said, dict) and "error" in said else ""
        raise Failed(f"the answer is {response.content_type}, not a stream of events{why}")


def _must_be_whole(exchange: Exchange, done: bool) -> None:
    answer = exchange.answer
    if not done and answer.finish is None:
        raise Failed("the stream ended before the answer did")
    if answer.output_tokens == 0 or (exchange.last is None and not answer.output_tokens):
        raise Failed("the answer has no tokens")
    if exchange.last is None:
        raise Failed("the answer has tokens, and the stream had none of them")


def _refusal(status: int, body: bytes) -> str:
    said = _json(body)
    text = error_text(said) if said is not None else body.decode("utf-8", "replace").strip()[:200]
    return f"HTTP {status}: {' '.join(text.split()) or 'no text'}"


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def describe(error: BaseException) -> str:
    """An error of the network in words that are the same for the same cause, so that they can be counted."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection broke in the middle of the answer"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection without an answer"
    return f"{type(error).__name__}: {error}"[:300]
