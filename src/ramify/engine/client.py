"""A caller's side of the engine: sends requests, receives what they give, turns tokens into text.

A thread receives and detokenizes; callers wait in their own way, on a queue or in an event loop. One message holds
the news of a whole step, and wakes an event loop once.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from ramify.core.errors import BadRequest, EngineDead, UserError, from_status
from ramify.core.finish import Finish, internal_error
from ramify.engine.ask import Ask, Limits, SessionParams, submits
from ramify.engine.generation import Generation, News
from ramify.text.stream import TextStream
from ramify.text.tokenizer import Tokenizer
from ramify.wire.channel import ClientEnd
from ramify.wire.messages import Abort, Answer, Control, Farewell, FreezeGC, Hello, Logging, Replies

log = logging.getLogger(__name__)

Deliver = Callable[[News], None]


class Client:
    """Shared by all requests of a process. `tokenizer` may be None where callers bring and take token ids."""

    def __init__(self, end: ClientEnd, limits: Limits, tokenizer: Tokenizer | None) -> None:
        self.limits = limits
        self.tokenizer = tokenizer
        self.logging = Logging()
        self.on_logging: Callable[[Logging], None] = lambda logging: None
        self.on_change: Callable[[], None] = lambda: None  # it is ready, or has died; on the receiving thread
        self.died: str | None = None  # why the engine is gone
        self.ready = threading.Event()
        self._end = end
        self._open: dict[str, Generation] = {}
        self._opening = threading.Lock()
        self._answers: dict[int, Future[Any]] = {}
        self._tickets = itertools.count(1)
        self._loops: dict[asyncio.AbstractEventLoop, list[tuple[Deliver, News]]] = {}
        self._thread = threading.Thread(target=self._receive, name="ramify-receive", daemon=True)

    def start(self) -> None:
        """Begin to receive, and say hello."""
        self._thread.start()
        self.order("adopt").add_done_callback(self._adopted)

    def close(self) -> None:
        self._end.close()
        self._thread.join(timeout=5)

    def lose(self, reason: str) -> None:
        """The engine's process is gone and may not have said so."""
        self._end.close(reason)

    @property
    def open_requests(self) -> int:
        return len(self._open)

    # -- requests ----------------------------------------------------------------------------------------------------

    def open(self, ask: Ask, deliver: Deliver, text: bool = True, words: Tokenizer | None = None) -> list[Generation]:
        """Send a request, one generation per choice; `deliver` is called with their news on the receiving thread.
        `words` is what writes the text, if that is not the model's tokenizer.
        """
        if self.died is not None:
            raise EngineDead(self.died)
        made = [
            Generation(submit, self._stream(ask, text, words or self.tokenizer), deliver)
            for submit in submits(ask, self.limits, self._end.origin)
        ]
        with self._opening:
            if self.died is not None:  # meanwhile
                raise EngineDead(self.died)
            for generation in made:
                if generation.submit.rid in self._open:
                    raise BadRequest(f"a request with the id {generation.submit.rid!r} is already running", param="rid")
            self._open |= {generation.submit.rid: generation for generation in made}
        try:
            for generation in made:
                self._end.send(generation.submit)
                generation.sent_at = time.monotonic()
        except BaseException:  # what could not be sent must not keep its id
            for generation in made:
                self.abort(generation)
            raise
        return made

    @staticmethod
    def _stream(ask: Ask, text: bool, words: Tokenizer | None) -> TextStream | None:
        if ask.pooling is not None:
            return None
        if words is None or not text:
            if ask.params.has_text_stops:
                raise BadRequest("stop strings and stop regexes need a tokenizer", param="stop")
            return None
        return TextStream(ask.params, words.detokenizer(ask.params.skip_special_tokens, ask.tokens, ask.marks))

    def abort(self, generation: Generation) -> None:
        """Its caller has lost interest: nothing more is delivered."""
        if self._open.pop(generation.submit.rid, None) is not None:
            told = None if generation.submit.turn is None else len(generation.ids)  # a session holds what was delivered
            self._end.send(Abort(generation.submit.rid, keep=told))

    def give_up(self, reason: str) -> None:
        """End everything that is open, with a last word to its callers."""
        with self._opening:
            orphans, self._open = list(self._open.values()), {}
        finish = Finish.abort(reason, 503, "shutting_down")
        for generation in orphans:
            self._end.send(Abort(generation.submit.rid))
            generation.deliver(generation.fail(finish))

    @staticmethod
    def into(put: Deliver) -> Deliver:
        """A `deliver` that calls `put` in the running event loop."""
        return _InLoop(asyncio.get_running_loop(), put)

    async def stream(self, ask: Ask, text: bool = True) -> AsyncIterator[News]:
        """The same in an event loop. Leaving early aborts what is left."""
        inbox: asyncio.Queue[News] = asyncio.Queue()
        open_now = self.open(ask, self.into(inbox.put_nowait), text)
        ended = 0
        try:
            while ended < len(open_now):
                news = await inbox.get()
                ended += news.finish is not None
                yield news
        finally:
            for generation in open_now:
                self.abort(generation)

    # -- orders ------------------------------------------------------------------------------------------------------

    def order(self, name: str, /, **args: Any) -> Future[Any]:
        """A question or an order; the future has its answer, or raises `UserError`."""
        future: Future[Any] = Future()
        if self.died is not None:
            future.set_exception(EngineDead(self.died))
            return future
        ticket = next(self._tickets)
        with self._opening:
            self._answers[ticket] = future
        if self.died is not None:  # meanwhile: whoever emptied the table may not have seen this one
            self._fail_answers(EngineDead(self.died))
            return future
        self._end.send(Control(ticket, self._end.origin, name, args))
        return future

    def session_prompt(self, place: SessionParams) -> Future[list[int]]:
        """The tokens that a turn goes on from."""
        if place.rid is None:
            beginning: Future[list[int]] = Future()
            beginning.set_result([])
            return beginning
        return self.order(
            "session_prompt",
            session=place.id,
            after=place.rid,
            replace=place.replace,
            offset=place.offset,
            drop_output=place.drop_previous_output,
        )

    def joined(self, known: list[int], tokens: Sequence[int]) -> list[int]:
        """A prompt that goes on from `known`. Text is tokenized as if it began one: what says so is left out."""
        begins = bool(known and tokens and self.tokenizer is not None and tokens[0] == self.tokenizer.bos)
        return [*known, *(tokens[1:] if begins else tokens)]

    def _adopted(self, future: Future[Any]) -> None:
        """The engine's loop goes round, and has told how it logs."""
        if future.exception() is None:
            self.ready.set()
            self.on_change()

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        while True:
            message = self._end.receive()
            try:
                if isinstance(message, Replies):
                    self._take(message)
                elif isinstance(message, Answer):
                    self._answer(message)
                elif isinstance(message, Hello):
                    log.debug("the engine has loaded")
                elif isinstance(message, Logging):
                    self.logging = message
                    self.on_logging(message)
                elif isinstance(message, FreezeGC):
                    gc.collect()
                    gc.freeze()
                else:
                    self._part(message)
                    return
            except Exception:
                log.exception("a message from the engine could not be handled")

    def _take(self, replies: Replies) -> None:
        for reply in replies.items:
            generation = self._open.get(reply.rid)
            if generation is None:
                continue  # ended here already: by its text, or because its caller left
            try:
                news = generation.apply(reply)
            except Exception:
                log.exception("a reply to %s could not be taken in", reply.rid)
                self._end.send(Abort(reply.rid))
                news = generation.fail(internal_error(reply.rid, "internal"))
            if news.finish is not None:
                self._open.pop(reply.rid, None)
                if reply.finish is None or generation.submit.params.has_text_stops:
                    self._end.send(Abort(reply.rid, keep=len(generation.ids), finish=news.finish))
            self._deliver(generation.deliver, news)
        self._flush()

    def _deliver(self, deliver: Deliver, news: News) -> None:
        if isinstance(deliver, _InLoop):
            self._loops.setdefault(deliver.loop, []).append((deliver.put, news))
        else:
            deliver(news)

    def _flush(self) -> None:
        """Wake each event loop once."""
        for loop, waiting in self._loops.items():
            try:
                loop.call_soon_threadsafe(_hand_out, waiting)
            except RuntimeError:
                log.debug("an event loop closed while %d messages were on their way to it", len(waiting))
        self._loops.clear()

    def _answer(self, answer: Answer) -> None:
        future = self._answers.pop(answer.ticket, None)
        if future is None or not future.set_running_or_notify_cancel():
            return  # whoever asked has left
        if answer.error is None:
            future.set_result(answer.value)
        else:
            future.set_exception(from_status(answer.status, answer.error))

    def _part(self, farewell: Farewell) -> None:
        """The engine is gone: everything open fails now, and clearly."""
        self.died = farewell.reason
        error: UserError = EngineDead(farewell.reason)
        with self._opening:
            orphans, self._open = list(self._open.values()), {}
        for generation in orphans:
            finish = Finish.abort(farewell.reason, error.status, "engine_dead")
            self._deliver(generation.deliver, generation.fail(finish))
        self._flush()
        self._fail_answers(error)
        self.on_change()

    def _fail_answers(self, error: UserError) -> None:
        with self._opening:
            waiting, self._answers = list(self._answers.values()), {}
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


class _InLoop:
    """A `deliver` that belongs to an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, put: Deliver) -> None:
        self.loop, self.put = loop, put

    def __call__(self, news: News) -> None:
        self.loop.call_soon_threadsafe(self.put, news)


def _hand_out(waiting: list[tuple[Deliver, News]]) -> None:
    for put, news in waiting:
        put(news)
