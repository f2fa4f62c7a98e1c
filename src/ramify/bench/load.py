"""Sends a workload: open loop by arrival times, closed loop by a limit, and turn after turn within a conversation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from ramify.bench.backends import Asking, Backend, Said
from ramify.bench.client import Client, Exchange
from ramify.bench.datasets import Conversation, Turn
from ramify.bench.record import Record

OnRecord = Callable[[Record], None]


class Load:
    """One run. `records` grow in the order in which requests end; after `run` the run took `duration` seconds.

    `concurrency` of None sets no limit. `think_time` in seconds lies between an answer and the next turn.
    """

    def __init__(
        self,
        client: Client,
        backend: Backend,
        asking: Asking,
        concurrency: int | None = None,
        think_time: float = 0.0,
        on_record: OnRecord = lambda record: None,
    ) -> None:
        self.records: list[Record] = []
        self.duration = 0.0
        self._client, self._backend, self._asking = client, backend, asking
        self._room: asyncio.Semaphore | contextlib.nullcontext[None]
        self._room = asyncio.Semaphore(concurrency) if concurrency else contextlib.nullcontext()
        self._think_time = think_time
        self._on_record = on_record
        self._start = 0.0
        self._sent = 0

    async def run(self, conversations: Sequence[Conversation], due: Sequence[float]) -> None:
        """Until all have ended; `due` are their arrivals in seconds. Cancelling it keeps the records made so far."""
        self._start = perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for user, (at, conversation) in enumerate(zip(due, conversations, strict=True)):
                    await asyncio.sleep(max(self._start + at - perf_counter(), 0))
                    group.create_task(self._converse(user, at, conversation))
        finally:
            self.duration = perf_counter() - self._start

    async def _converse(self, user: int, due: float, conversation: Conversation) -> None:
        """A turn that fails ends the conversation: what comes after it would not be what was meant to be measured."""
        history: list[Said] = []
        for number, turn in enumerate(conversation.turns):
            if number:
                await asyncio.sleep(self._think_time)
                due = perf_counter() - self._start
            async with self._room:
                place = Place(self._next(), user, number, due)
                exchange = await self._send(history, turn)
            self._keep(as_record(exchange, self._start, place, turn))
            if exchange.error is not None:
                return
            history.append((turn.content, exchange.answer))

    def _next(self) -> int:
        self._sent += 1
        return self._sent - 1

    async def _send(self, history: list[Said], turn: Turn) -> Exchange:
        body = self._backend.request(self._asking, history, turn.content, turn.output_len)
        return await self._client.ask(self._backend, body)

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        self._on_record(record)


@dataclass(frozen=True)
class Place:
    """Where a request stands in its run; `due` in seconds from the start."""

    index: int = 0
    user: int = 0
    turn: int = 0
    due: float = 0.0


def as_record(exchange: Exchange, start: float, place: Place, turn: Turn) -> Record:
    """What an exchange says of the request. Where the server counts no tokens, chunks stand in for them."""
    answer, sent, last = exchange.answer, exchange.sent, exchange.last
    first = exchange.stamps[0] if exchange.stamps else last
    known = answer.output_tokens is not None
    return Record(
        index=place.index,
        user=place.user,
        turn=place.turn,
        due=place.due,
        sent=sent - start,
        ended=exchange.ended - start,
        asked_input=turn.input_len if place.turn == 0 else None,
        asked_output=turn.output_len,
        first=None if first is None else first - sent,
        last=None if last is None else last - sent,
        stamps=[stamp - sent for stamp in exchange.stamps],
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        output_tokens=answer.output_tokens if known else len(exchange.stamps),
        counted="server" if known else "chunks",
        text="" if known else answer.text,
        finish=answer.finish,
        status=exchange.status,
        error=exchange.error,
    )
