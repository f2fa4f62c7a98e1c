"""Server-sent events: one event per piece of news, comments while there is none, an end when the client has left."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ramify.core.errors import UserError
from ramify.engine.generation import News
from ramify.server.errors import stream_error
from ramify.server.feed import Feed

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

_encode = msgspec.json.Encoder().encode


def frame(value: Any) -> bytes:
    """One event."""
    return b"data: " + _encode(value) + b"\n\n"


def as_json(value: Any) -> Response:
    """The answer that is not a stream."""
    return Response(_encode(value), media_type="application/json")


class Frames(Protocol):
    """How the answer of a route is told in events. Each returns any number of them, joined."""

    def begin(self) -> bytes: ...

    def news(self, news: News) -> bytes: ...

    def end(self) -> bytes:
        """Before the `[DONE]`."""


class EventStream:
    """An ASGI response. When the client is gone, or the end has come, `feed` is closed."""

    status_code = 200

    def __init__(self, frames: Frames, feed: Feed, keep_alive: float) -> None:
        self._frames = frames
        self._feed = feed
        self._keep_alive = keep_alive
        self.headers: list[tuple[bytes, bytes]] = list(HEADERS)

    @classmethod
    async def over(cls, frames: Frames, feed: Feed, keep_alive: float) -> EventStream:
        """A response whose first news, or first error, is there before it begins, if it comes within `keep_alive` s:
        what the engine refuses at once is refused with its own status, and not inside a stream that said 200.
        """
        try:
            await feed.wait(keep_alive)
        except BaseException:
            feed.close()
            raise
        return cls(frames, feed, keep_alive)

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
            self._feed.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        first = self._frames.begin()
        if first:
            await send({"type": "http.response.body", "body": first, "more_body": True})
        last = await self._send_news(send)
        await send({"type": "http.response.body", "body": last + DONE, "more_body": False})

    async def _send_news(self, send: Send) -> bytes:
        """Events as there is news of them, many in one write where they came together. Returns what comes last."""
        feed, render = self._feed, self._frames.news
        try:
            while feed.left:
                if await feed.wait(self._keep_alive):
                    body = b"".join([render(news) for news in feed.take()])
                else:
                    body = KEEP_ALIVE
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            return self._frames.end()
        except UserError as e:
            return frame(stream_error(e))


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
