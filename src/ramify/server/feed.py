"""News of a request's generations, from the thread that receives them to the coroutine that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from ramify.core.errors import BadRequest
from ramify.engine.ask import Ask
from ramify.engine.client import Client
from ramify.engine.engine import raise_if_failed
from ramify.engine.generation import Generation, News
from ramify.server.requestlog import request_log
from ramify.server.state import State

MAX_SEQUENCES = 2048  # prompts times choices


class Feed:
    """Opens `asks` and hands out their news in the event loop. Closing it aborts whatever still runs.

    `logged`: it is in the log, if requests are. Made and used by one coroutine; only `_put` is called by others, in the
    same loop.
    """

    def __init__(self, state: State, asks: Sequence[Ask], *, logged: bool = True) -> None:
        most, asked = state.client.limits.most, sum(ask.params.n for ask in asks)
        if asked > min(most, MAX_SEQUENCES):
            raise BadRequest(
                f"{asked} sequences in one request are more than the {min(most, MAX_SEQUENCES)} this server takes",
                param="n",
            )
        self._client = state.client  # of this engine, whichever comes after it
        self._loop = asyncio.get_running_loop()
        self._news: list[News] = []
        self._waiter: asyncio.Future[None] | None = None
        self.generations: list[Generation] = []
        self._lines = request_log(state, logged)
        self._announced = False
        deliver = self._client.into(self._put)
        try:
            for ask in asks:
                self.generations += self._client.open(_ending(ask, state.ends), deliver, words=state.tokenizer)
        except BaseException:
            self.close()
            raise
        self.left = len(self.generations)  # that have not ended

    def _put(self, news: News) -> None:
        self._news.append(news)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, silence: float | None = None) -> bool:
        """Until there is news; False after `silence` seconds without any. Raises the error of a generation that failed
        before anything else was said.
        """
        if not self._announced:
            self._announced = True
            await self._lines.received(self.generations)
        if not self._news:
            self._waiter = self._loop.create_future()
            timer = None if silence is None else self._loop.call_later(silence, _give_up, self._waiter)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        for news in self._news:
            if news.finish is not None and news.generation.submit.turn is not None:
                await _settled(self._client)
                break
        if self._news:
            raise_if_failed(self._news[0])
        return bool(self._news)

    def take(self) -> list[News]:
        """What there is now, up to the first failure, which is raised by the `wait` that follows."""
        taken, self._news = self._news, []
        for at, news in enumerate(taken):
            if news.finish is not None:
                if news.finish.is_error:
                    taken, self._news = taken[:at], taken[at:]
                    break
                self.left -= 1
        return taken

    def close(self) -> None:
        """Nobody is interested any more."""
        for generation in self.generations:
            self._client.abort(generation)
            self._lines.finished(generation)


def _ending(ask: Ask, ends: tuple[int, ...]) -> Ask:
    """Ends at these tokens as well, unless it goes on at the model's."""
    if not ends or ask.params.ignore_eos or ask.pooling is not None:
        return ask
    stops = [*(ask.params.stop_token_ids or ()), *ends]
    return replace(ask, params=msgspec.structs.replace(ask.params, stop_token_ids=stops))


async def _settled(client: Client) -> None:
    """Whoever hears of the end of a session's turn may go on from it at once, and through another worker: first the
    engine has to have heard the last word on it, which it has when it answers what was asked later.
    """
    await asyncio.wrap_future(client.order("ping"))


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def collect(state: State, asks: Sequence[Ask], *, logged: bool = True) -> list[Generation]:
    """All generations, finished, in the order of the prompts and of their choices."""
    feed = Feed(state, asks, logged=logged)
    try:
        while feed.left:
            await feed.wait()
            feed.take()
    finally:
        feed.close()
    return feed.generations
