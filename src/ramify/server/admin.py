"""Orders to the engine."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ramify.core.errors import BadRequest
from ramify.engine.ask import check_rid
from ramify.server.auth import require_admin
from ramify.server.state import State
from ramify.server.takes import Takes

# The texts are SGLang's: clients show them.
FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)
NOT_FLUSHED = "Flush cache failed.\n"
MAX_TIMEOUT = 600.0


async def flush_cache(request: Request, state: State, _: None) -> Response:
    """Forget every cached prefix; with `timeout` seconds, wait for the engine to be idle first."""
    timeout = _seconds(request.query_params.get("timeout", "0"))
    try:
        await asyncio.wrap_future(state.client.order("flush_cache", timeout=timeout))
    except BadRequest as e:
        return PlainTextResponse(NOT_FLUSHED + e.message + "\n", 400)
    return PlainTextResponse(FLUSHED)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f"timeout should be a number of seconds, not {text!r}", param="timeout") from None
    if not 0 <= value <= MAX_TIMEOUT:
        raise BadRequest(f"timeout should be between 0 and {MAX_TIMEOUT:g} seconds", param="timeout")
    return value


class AbortRequest(msgspec.Struct, kw_only=True):
    """The body of `/abort_request`."""

    rid: str | None = None
    abort_all: bool = False


ABORT = Takes(AbortRequest, {"abort_message": "the end of an aborted request says that it was aborted"})


async def abort_request(request: Request, state: State, asked: AbortRequest) -> Response:
    """End the request of exactly this `rid`, or its parts `<rid>_<i>`; `abort_all` is for admins."""
    if asked.abort_all:
        require_admin(request, state.resolved.settings.server)
    else:
        check_rid(asked.rid)
    await asyncio.wrap_future(state.client.order("abort", rid=asked.rid, all=asked.abort_all))
    return Response(status_code=200)
