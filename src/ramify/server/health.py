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
from ramify.server.metrics import joined, of_engines
from ramify.server.state import State

TIMEOUT = 20.0


def meant(request: Request, state: State) -> tuple[State, ...]:
    """The model that `?model=` names, or all."""
    several = state.directory.several and "model" not in request.query_params
    return state.directory.states if several else (state,)


async def hello(request: Request, state: State, _: None) -> Response:
    """Says what is served."""
    served = ", ".join(each.resolved.served_name for each in state.directory.states)
    return PlainTextResponse(f"ramify serves {served}\n")


async def health(request: Request, state: State, _: None) -> Response:
    """200 if an engine's loop answers: it does once per step, so a long step makes it late and a dead one 503. One that
    sleeps is well. Of several models that are all meant, one that is well is enough: what ails another is its own.
    """
    well = await asyncio.gather(*(_is_well(each) for each in meant(request, state)))
    return Response(status_code=200 if any(well) else 503)


async def _is_well(state: State) -> bool:
    if state.link.phase == "asleep":
        return True
    if not state.link.usable:
        return False
    try:
        await asyncio.wait_for(asyncio.wrap_future(state.client.order("ping")), TIMEOUT)
    except (TimeoutError, UserError):
        return False
    return True


async def health_generate(request: Request, state: State, _: None) -> Response:
    """200 if a token can really be computed, or generation is paused and the engine's loop answers."""
    well = await asyncio.gather(*(_generates(each) for each in meant(request, state)))
    return Response(status_code=200 if any(well) else 503)


async def _generates(state: State) -> bool:
    if state.link.phase == "asleep":
        return not state.directory.draining
    try:
        with state.link.hold():
            state.check_open()
            if not await asyncio.wait_for(asyncio.wrap_future(state.client.order("paused")), TIMEOUT):
                await asyncio.wait_for(_one_token(state), TIMEOUT)
    except (TimeoutError, UserError):
        return False
    return True


async def _one_token(state: State) -> None:
    params, head = SamplingParams(max_new_tokens=1, temperature=0.0), state.resolved.model.head
    pooling = None if head is None else pooling_of(head)
    rid = f"HEALTH_CHECK_{new_rid()}"
    ask = Ask(tokens=[0], params=params, rid=rid, arrived=time.monotonic(), pooling=pooling)
    async for news in state.client.stream(ask, text=False):
        if news.finish is not None and news.finish.is_error:
            raise EngineDead(news.finish.message or "the health check failed")


async def ready(request: Request, state: State, _: None) -> Response:
    """200 once requests are taken, 503 while loading and while draining. Of several models all have to have been ready
    that are not lazy, and one has to be.
    """
    states = meant(request, state)
    begun = all(each.link.lazy or each.link.proved for each in states)
    open_now = begun and any(_is_open(each) for each in states)
    return Response(status_code=200 if open_now else 503)


def _is_open(state: State) -> bool:
    """A request would be taken, at once or when the engine has been started for it."""
    return not state.directory.draining and (state.link.phase == "asleep" or state.link.usable)


async def metrics(request: Request, state: State, _: None) -> Response:
    """Prometheus' text format."""
    states = meant(request, state)
    texts = await asyncio.gather(*(_counted(each) for each in states if each.link.usable))
    return PlainTextResponse(joined([*texts, of_engines(states)]), media_type=CONTENT_TYPE)


async def _counted(state: State) -> str:
    try:
        return str(await asyncio.wait_for(asyncio.wrap_future(state.client.order("metrics")), TIMEOUT))
    except TimeoutError:
        raise Overloaded(f"the engine of {state.resolved.served_name} does not answer") from None
