"""Is it alive, is it ready, does it generate, what does it count."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ramify.core.errors import EngineDead, Overloaded, UserError
from ramify.core.params import SamplingParams
from ramify.engine.ask import Ask, new_rid, pooling_of
from ramify.engine.meter import CONTENT_TYPE
from ramify.server.state import State

TIMEOUT = 20.0


async def hello(request: Request, state: State, _: None) -> Response:
    """Says what is served."""
    return PlainTextResponse(f"ramify serves {state.resolved.served_name}\n")


async def health(request: Request, state: State, _: None) -> Response:
    """200 if the engine's loop answers: it does once per step, so a long step makes it late and a dead one 503."""
    return Response(status_code=200 if await _answers(state, "ping") else 503)


async def _answers(state: State, order: str) -> bool:
    if state.client.died is not None or not state.client.ready.is_set():
        return False
    try:
        await asyncio.wait_for(asyncio.wrap_future(state.client.order(order)), TIMEOUT)
    except (TimeoutError, UserError):
        return False
    return True


async def health_generate(request: Request, state: State, _: None) -> Response:
    """200 if a token can really be computed, or generation is paused and the engine's loop answers."""
    try:
        state.check_open()
        if not await asyncio.wait_for(asyncio.wrap_future(state.client.order("paused")), TIMEOUT):
            await asyncio.wait_for(_one_token(state), TIMEOUT)
    except (TimeoutError, UserError):
        return Response(status_code=503)
    return Response(status_code=200)


async def _one_token(state: State) -> None:
    params, head = SamplingParams(max_new_tokens=1, temperature=0.0), state.resolved.model.head
    pooling = None if head is None else pooling_of(head)
    rid = f"HEALTH_CHECK_{new_rid()}"
    ask = Ask(tokens=[0], params=params, rid=rid, arrived=time.monotonic(), pooling=pooling)
    async for news in state.client.stream(ask, text=False):
        if news.finish is not None and news.finish.is_error:
            raise EngineDead(news.finish.message or "the health check failed")


async def ready(request: Request, state: State, _: None) -> Response:
    """200 once requests are taken, 503 while loading and while draining."""
    try:
        state.check_open()
    except (EngineDead, Overloaded):
        return Response(status_code=503)
    return Response(status_code=200)


async def metrics(request: Request, state: State, _: None) -> Response:
    """Prometheus' text format."""
    try:
        text = await asyncio.wait_for(asyncio.wrap_future(state.client.order("metrics")), TIMEOUT)
    except TimeoutError:
        raise Overloaded("the engine does not answer") from None
    return PlainTextResponse(text, media_type=CONTENT_TYPE)
