"""The ASGI application: what every request goes through before and after its handler.

    request id -> route -> auth -> body (limit, type, JSON) -> handler -> response, or an error in the route's shape

A handler that is still computing when its client leaves is cancelled, and what it had asked of the engine aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ramify.config.head import Head
from ramify.core.errors import (
    BadRequest,
    HeadersTooLarge,
    InternalError,
    NotFound,
    TooLarge,
    TooSlow,
    UnsupportedMedia,
    UserError,
    WrongMethod,
)
from ramify.core.log import request_id, served_model
from ramify.engine.ask import check_task
from ramify.server import auth, errors
from ramify.server.directory import Directory
from ramify.server.routes import ROUTES, Route
from ramify.server.sse import disconnected
from ramify.server.state import State
from ramify.server.takes import WARNINGS, as_header, warn_of_unknown

log = logging.getLogger(__name__)

BODY_SECONDS = 60.0
DISCARD = 4  # times the limit
DISCARD_SECONDS = 2.0
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 << 10
MAX_ID = 128
MAX_KEYS = 256


def make_app(directory: Directory) -> ASGIApp:
    """The application of one API worker."""
    return _Frame(_Dispatch(directory))


class _Dispatch:
    """Finds the route: by its whole path, or by its beginning where it ends in a parameter."""

    def __init__(self, directory: Directory) -> None:
        self._exact: dict[str, dict[str, _Endpoint]] = {}
        self._open_ended: dict[str, dict[str, _Endpoint]] = {}
        for route in ROUTES:
            table, path = self._exact, route.path
            if path.endswith("}"):
                table, path = self._open_ended, path[: path.index("{")]
            for method in route.methods:
                table.setdefault(path, {})[method] = _Endpoint(route, directory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        found = self._exact.get(path) or self._find_open_ended(scope)
        if not found:
            error: UserError = NotFound(f"{path} is not a route of this server")
        elif (endpoint := found.get("GET" if method == "HEAD" and "POST" not in found else method)) is not None:
            await endpoint(scope, receive, send)
            return
        else:
            allowed = ", ".join(sorted(found))
            error = WrongMethod(f"{path} takes {allowed}, not {method}", allowed)
        await errors.respond(error, openai=path.startswith("/v1/"))(scope, receive, send)

    def _find_open_ended(self, scope: Scope) -> dict[str, _Endpoint] | None:
        for beginning, found in self._open_ended.items():
            if scope["path"].startswith(beginning):
                scope["path_params"] = {"rest": scope["path"][len(beginning) :]}
                return found
        return None


class _Frame:
    """Outermost: gives the request its id, refuses absurd headers, and keeps the server up whatever happens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        rid = _request_id(scope)
        token = request_id.set(rid)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-request-id", rid.encode())]
                if warnings := scope.get(WARNINGS):
                    headers.append((b"x-ramify-warning", as_header(warnings)))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


def _request_id(scope: Scope) -> str:
    """The client's `X-Request-Id` if it is fit to be logged and sent back, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and 0 < len(value) <= MAX_ID and value.isascii() and value.decode().isprintable():
            return value.decode()
    return uuid.uuid4().hex


class _Endpoint:
    """One route as an ASGI application."""

    def __init__(self, route: Route, directory: Directory) -> None:
        self._route = route
        self._directory = directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        request = Request(scope, receive)
        with contextlib.ExitStack() as held:
            try:
                response = await self._respond(request, held)
            except ClientDisconnect:
                log.debug("%s: the client left", self._route.path)
                return
            except asyncio.CancelledError:
                raise
            except Exception as e:  # noqa: BLE001  (one bad request must not hurt another)
                response = self._failed(e)
            seconds = time.monotonic() - started
            log.debug("%s %s %d %.3fs", scope["method"], scope["path"], response.status_code, seconds)
            await response(scope, receive, send)

    async def _respond(self, request: Request, held: contextlib.ExitStack) -> Any:
        """The answer; `held` keeps what it needs until it is sent."""
        settings = self._directory.first.resolved.settings.server
        if (
            len(request.headers) > MAX_HEADERS
            or sum(len(k) + len(v) for k, v in request.headers.raw) > MAX_HEADER_BYTES
        ):
            raise HeadersTooLarge("too many headers, or too long ones")
        auth.check(request, self._route.auth, settings)
        takes = self._route.takes
        if takes is None:
            return await self._of(request, self._named(request, {}), None, held)
        body = await self._body(request, settings.max_body_mib << 20, takes.optional)
        return await self._of(request, self._named(request, body), body, held)

    def _named(self, request: Request, body: dict[str, Any]) -> str | None:
        """The model that a request names, if it does. Of several models one can be named on any route; what does not
        know the field otherwise does not see it.
        """
        takes, query = self._route.takes, request.query_params.get("model")
        if not self._directory.several:
            return None
        known = takes is not None and "model" in takes.honoured
        name = body.get("model", query) if known else body.pop("model", query)
        if name is not None and not isinstance(name, str):
            raise BadRequest("model should be a string", param="model")
        return name

    async def _of(
        self, request: Request, name: str | None, body: dict[str, Any] | None, held: contextlib.ExitStack
    ) -> Any:
        if name is None and self._route.orders and self._directory.several:
            return await self._of_all(request, body)
        state = self._directory.find(name)
        if self._directory.several:
            served_model.set(state.resolved.served_name)
        check_served(self._route, state.resolved.model.head)
        answering = self._answer(request, state, self._read(request, state, body), held)
        return await (answering if body is None else _while_connected(request, answering))

    async def _of_all(self, request: Request, body: dict[str, Any] | None) -> Any:
        """An order that names nobody is for every engine that is there. The first refusal is the answer, if there is
        one.
        """
        responses = []
        for state in self._directory.states:
            if state.link.usable:
                asked = self._read(request, state, body)
                responses.append(await self._route.handler(request, state, asked))
        if not responses:
            self._directory.first.check_open()
        return next((response for response in responses if response.status_code >= 400), responses[0])

    def _read(self, request: Request, state: State, body: dict[str, Any] | None) -> Any:
        if body is None:
            return None
        assert self._route.takes is not None
        if unknown := self._route.takes.unknown(body):
            warn_of_unknown(state, request, unknown)
        return self._route.takes.read(body)

    async def _answer(self, request: Request, state: State, asked: Any, held: contextlib.ExitStack) -> Any:
        if self._route.words:
            await state.load()
        if self._route.computes:
            held.enter_context(state.link.hold())
            await state.link.engine()
        if self._route.words:
            state = await state.under(asked)
        return await self._route.handler(request, state, asked)

    async def _body(self, request: Request, limit: int, optional: bool) -> dict[str, Any]:
        """The JSON object that is the body."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMedia(f"the body should be application/json, not {kind}")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit * DISCARD:  # else it is read to its end, and thrown away
            raise TooLarge(f"the body is over {limit >> 20} MiB")
        try:
            raw = await asyncio.wait_for(_read(request, limit), BODY_SECONDS)
        except TimeoutError:
            raise TooSlow(f"the body did not come within {BODY_SECONDS:g} s") from None
        if optional and not raw.strip():
            return {}
        if not kind:
            raise UnsupportedMedia("the body should be application/json, not without a type")
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as e:
            raise BadRequest(f"the body is not valid JSON: {e}") from None
        except RecursionError:
            raise BadRequest("the body is nested too deeply") from None
        if not isinstance(body, dict):
            raise BadRequest("the body should be a JSON object")
        if len(body) > MAX_KEYS:
            raise BadRequest(f"the body has {len(body)} keys, at most {MAX_KEYS} make sense")
        return body

    def _failed(self, error: Exception) -> Response:
        told = errors.as_user_error(error)
        if isinstance(told, InternalError) and not isinstance(error, UserError):
            log.error("%s failed", self._route.path, exc_info=error)
        return errors.respond(errors.renamed(told, self._route.names), self._route.openai)


async def _while_connected(request: Request, answering: Coroutine[Any, Any, Any]) -> Any:
    """The handler's answer; raises `ClientDisconnect`, with the handler cancelled, if nobody waits for it."""
    working = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, UserError):
                    await task


def check_served(route: Route, head: Head | None) -> None:
    """A route is for models of a task; the words say what to serve instead."""
    task = "generate" if head is None else head.task
    if task in route.tasks:
        return
    check_task(head, pools="generate" not in route.tasks)
    what = " or ".join(WANTED[wanted] for wanted in route.tasks)
    raise BadRequest(f"{route.path} needs {what}, and this server has {WANTED[task]}", code="model_cannot")


WANTED = {
    "generate": "a model that generates",
    "embed": "an embedding model",
    "classify": "a classifier",
    "reward": "a reward model",
}


async def _read(request: Request, limit: int) -> bytes:
    """The body, as long as it is within the limit."""
    chunks: list[bytes] = []
    size = 0
    coming = request.stream()
    async for chunk in coming:
        size += len(chunk)
        if size > limit:
            chunks.clear()
            await _discard(coming, DISCARD * limit)
            raise TooLarge(f"the body is over {limit >> 20} MiB")
        chunks.append(chunk)
    return b"".join(chunks)


async def _discard(coming: AsyncIterator[bytes], limit: int) -> None:
    """Read on for a moment and keep nothing: a client that is cut off while it sends never sees why."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in coming:
                limit -= len(chunk)
                if limit < 0:
                    return
