"""Sessions: a client sends what is new of a conversation, and the engine knows what came before."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from ramify.core.errors import BadRequest
from ramify.engine.ask import BILLION, SessionName, SessionParams
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes
from ramify.wire.messages import Turn

WEEK = 7 * 86_400


class OpenSession(msgspec.Struct, kw_only=True):
    """The body of `/open_session`. `capacity_of_str_len` is counted in tokens, of which each is a character or more;
    after `timeout` seconds without use, a day if it is not given, the session ends.
    """

    capacity_of_str_len: Annotated[int, Meta(ge=1, le=BILLION)]
    session_id: SessionName | None = None
    timeout: Annotated[float, Meta(gt=0, le=WEEK)] | None = None


class CloseSession(msgspec.Struct, kw_only=True):
    """The body of `/close_session`."""

    session_id: SessionName


OPEN = Takes(OpenSession, refused={"streaming": "streaming sessions"})
CLOSE = Takes(CloseSession)


async def open_session(request: Request, state: State, asked: OpenSession) -> Response:
    """Open a session; the answer is its id."""
    state.check_open()
    if asked.session_id is not None and not asked.session_id.isprintable():
        raise BadRequest("session_id should be printable", param="session_id")
    order = state.client.order(
        "open_session", session_id=asked.session_id, capacity=asked.capacity_of_str_len, timeout=asked.timeout
    )
    return as_json(await asyncio.wrap_future(order))


async def close_session(request: Request, state: State, asked: CloseSession) -> Response:
    """Close a session, if it is still open. What runs of it goes on."""
    await asyncio.wrap_future(state.client.order("close_session", session_id=asked.session_id))
    return Response(status_code=200)


async def continued(state: State, asked: SessionParams | None, tokens: list[int]) -> tuple[list[int], Turn | None]:
    """The whole prompt of a turn, of which `tokens` are new, and its place in the session."""
    if asked is None:
        return tokens, None
    try:
        known = await asyncio.wrap_future(state.client.session_prompt(asked))
    except BadRequest as e:
        raise BadRequest(e.message, param="session_params") from None
    return state.client.joined(known, tokens), asked.turn


def one_each(asked: SessionParams | list[SessionParams] | None, count: int, batch: bool) -> list[Any]:
    """A place in a session for every prompt."""
    if not isinstance(asked, list):
        if asked is not None and (batch or count > 1):
            raise BadRequest("a list of prompts needs a list of session_params", param="session_params")
        return [asked] * count
    if len(asked) != count:
        raise BadRequest(f"session_params has {len(asked)} entries for {count} prompts", param="session_params")
    return asked
