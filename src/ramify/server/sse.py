"""Server-sent events: one frame per piece of news, comments while there is none, an end when the client has left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Generic, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

_encode = msgspec.json.Encoder().encode


def frame(value: Any) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def as_json(value: Any) -> Response:
    """The answer that is not a stream."""
    return Response(_encode(value), media_type="application/json")


class Ahead(Generic[T]):
    """An async generator whose first item, or first error, is there before the response begins.

    So what the engine refuses at once is refused with its own status, and not inside a stream that said 200.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._first: asyncio.Future[T | None] | None = None

    async def look(self, seconds: float) -> Ahead[T]:
        """Wait for the first item, but not for ever; raises what it raises."""
        self._first = asyncio.ensure_future(anext(self._items, None))
        try:
            await asyncio.wait((self._first,), timeout=seconds)
            if self._first.done():
                self._first.result()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aiter__(self) -> AsyncIterator[T]:
        assert self._first is not None, "look() comes first"
        item = await self._first
        if item is not None:
            yield item
            async for item in self._items:
                yield item

    async def aclose(self) -> None:
        """End the generator, wherever it stands."""
        if self._first is not None and not self._first.done():
            self._first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._first
        await self._items.aclose()


class EventStream:
    """An ASGI response. `source`, from which `frames` are made, is closed as soon as the client is gone."""

    status_code = 200

    def __init__(self, frames: AsyncGenerator[bytes, None], source: Ahead[Any], keep_alive: float) -> None:
        self._frames = frames
        self._source = source
        self._keep_alive = keep_alive
        self.headers: list[tuple[bytes, bytes]] = list(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task
            await self._frames.aclose()
            await self._source.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        coming = asyncio.ensure_future(anext(self._frames, None))
        try:
            while True:
                done, _ = await asyncio.wait((coming,), timeout=self._keep_alive)
                chunk = coming.result() if done else KEEP_ALIVE
                if chunk is None:
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if done:
                    coming = asyncio.ensure_future(anext(self._frames, None))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
