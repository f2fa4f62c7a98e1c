"""The Python face: an engine in this process, drop-in for `sglang.Engine`.

with ramify.Engine("path/to/model") as engine:
    print(engine.generate("Once upon a time", {"max_new_tokens": 32})["text"])
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from ramify.config.read import overlay
from ramify.config.resolve import SECRETS, Resolved
from ramify.config.settings import Settings, names
from ramify.core.convert import convert
from ramify.core.errors import BadRequest, from_status
from ramify.core.params import SamplingParams
from ramify.engine.ask import Ask, Limits, SessionParams
from ramify.engine.assemble import assemble
from ramify.engine.build import load_model_tokenizer, prepare
from ramify.engine.client import Client
from ramify.engine.generation import News
from ramify.engine.outputs import Shape
from ramify.text.template import ChatTemplate
from ramify.text.tokenizer import Tokenizer
from ramify.wire.channel import inproc
from ramify.wire.messages import Turn

log = logging.getLogger(__name__)

Params = SamplingParams | dict[str, Any] | None
Output = dict[str, Any]
BAR_ABOVE = 8  # prompts in one call that earn a progress bar


class Engine:
    """Loads a model and serves it to this process. Keyword arguments are the command line's flags in snake_case.

    Methods may be called from several threads. `shutdown`, or leaving a `with` block, frees the model.
    """

    def __init__(self, model_path: str | None = None, **settings: Any) -> None:
        asked = {"log_level": "error", "log_interval": 0.0, **settings}
        if model_path is not None:
            asked["model_path"] = model_path
        self._start(overlay(Settings(), asked, "Engine"))

    @classmethod
    def from_settings(cls, settings: Settings) -> Engine:
        """From settings that are complete already, as the command line makes them."""
        engine = cls.__new__(cls)
        engine._start(settings)
        return engine

    def _start(self, settings: Settings) -> None:
        self.resolved: Resolved = prepare(settings)
        self.tokenizer = load_model_tokenizer(self.resolved)
        engine_end, client_end = inproc()
        self._loop = assemble(self.resolved, engine_end)
        self._runner = threading.Thread(target=self._run, name="ramify-engine", daemon=True)
        self._client = Client(client_end, limits_of(self.resolved), self.tokenizer)
        self._shape = Shape(self.tokenizer, self.resolved.settings.model.weight_version)
        self._template: ChatTemplate | None = None
        self._runner.start()
        self._client.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Stop; open requests fail. Safe to call twice."""
        if self._client.died is None:
            self._client.order("stop").result(timeout=60)
            self._runner.join(timeout=60)
            self._client.close()

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception:
            log.exception("the engine's loop failed")
        finally:
            self._loop.executor.close()
            self._loop.channel.close()

    # -- generating --------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Params | Sequence[Params] = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        return_logprob: bool = False,
        stream: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        token_ids_logprob: Sequence[int] | None = None,
        rid: str | Sequence[str] | None = None,
        priority: int = 0,
        extra_key: str | None = None,
        return_text_in_logprobs: bool = False,
        session_params: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Generate from text or token ids, one prompt or a list.

        Returns a dict like `/generate`'s for one prompt and a list of them for a list or for `n` above 1; with
        `stream`, an iterator of such dicts whose text grows. Raises `UserError` where a request is refused or fails.
        `session_params` make a prompt a turn of a session: {id, rid, offset, replace, drop_previous_output}.
        `progress` shows a bar on long work; None shows it on a terminal.
        """
        asks, one = self._asks(
            prompt,
            sampling_params,
            input_ids,
            stream,
            rid,
            session_params,
            return_logprob=return_logprob,
            logprob_start=-1 if logprob_start_len is None else logprob_start_len,
            top_logprobs=top_logprobs_num or 0,
            token_ids_logprob=token_ids_logprob or (),
            priority=priority,
            salt=extra_key or "",
        )
        shape = Shape(self.tokenizer, self.resolved.settings.model.weight_version, return_text_in_logprobs)
        if stream:
            return self._streams(asks, shape, one)
        outputs = self._collect(asks, shape, _bar_wanted(progress, len(asks)))
        return outputs[0] if one and len(outputs) == 1 else outputs

    def _asks(
        self, prompt: Any, params: Any, ids: Any, stream: bool, rid: Any, places: Any, **more: Any
    ) -> tuple[list[Ask], bool]:
        """One `Ask` per prompt, and whether there was one prompt rather than a list."""
        if (prompt is None) == (ids is None):
            raise BadRequest("give either prompt or input_ids", param="prompt")
        one = isinstance(prompt, str) or (ids is not None and bool(len(ids)) and isinstance(ids[0], int))
        given = [prompt if prompt is not None else ids] if one else list(prompt if prompt is not None else ids)
        if not given:
            raise BadRequest("the list of prompts is empty", param="prompt" if prompt is not None else "input_ids")
        tokens = self._tokenizer().encode_batch(given) if prompt is not None else given
        each = _per_prompt(params, len(given), "sampling_params")
        rids = _rids(rid, len(given))
        now = time.monotonic()
        turns = self._turns(places, tokens, one)
        asks = [
            Ask(tokens=whole, params=as_params(p), rid=r, stream=stream, arrived=now, turn=turn, **more)
            for (whole, turn), p, r in zip(turns, each, rids, strict=True)
        ]
        return asks, one

    def _turns(self, places: Any, tokens: Sequence[Any], one: bool) -> list[tuple[Any, Turn | None]]:
        """Whole prompts, and their places in sessions."""
        if places is None:
            return [(new, None) for new in tokens]
        if isinstance(places, dict) != one:
            raise BadRequest("session_params: one for each prompt", param="session_params")
        asked = [
            convert(place, SessionParams, "session_params")
            for place in _per_prompt(places, len(tokens), "session_params")
        ]
        known = [self._client.session_prompt(place).result() for place in asked]
        return [(self._client.joined(k, new), a.turn) for k, new, a in zip(known, tokens, asked, strict=True)]

    def _collect(self, asks: list[Ask], shape: Shape, bar: bool) -> list[Output]:
        """All of them at once; results in the order of the prompts, choices of one prompt side by side."""
        import queue

        inbox: queue.SimpleQueue[News] = queue.SimpleQueue()
        opened = [self._client.open(ask, inbox.put) for ask in asks]
        waiting = sum(map(len, opened))
        with _Bar(waiting, bar) as progress:
            try:
                while waiting:
                    news = inbox.get()
                    if news.finish is not None:
                        waiting -= 1
                        progress.advance(len(news.generation.ids))
                        raise_if_failed(news)
            finally:
                for generations in opened:
                    for generation in generations:
                        self._client.abort(generation)
        return [shape.whole(generation) for generations in opened for generation in generations]

    def _streams(self, asks: list[Ask], shape: Shape, one: bool) -> Iterator[Output]:
        import queue

        inbox: queue.SimpleQueue[News] = queue.SimpleQueue()
        opened = [generation for ask in asks for generation in self._client.open(ask, inbox.put)]
        place = {generation.submit.rid: index for index, generation in enumerate(opened)}
        waiting = len(opened)
        try:
            while waiting:
                news = inbox.get()
                raise_if_failed(news)
                waiting -= news.finish is not None
                output = shape.part(news.generation, 0, news.tokens, news.generation.text)
                yield output if one and len(opened) == 1 else {**output, "index": place[news.generation.submit.rid]}
        finally:
            for generation in opened:
                self._client.abort(generation)

    async def async_generate(self, *args: Any, **kwargs: Any) -> Any:
        """`generate` without blocking the event loop; with `stream`, an async iterator."""
        if kwargs.get("stream"):
            return self._in_thread(iter(await asyncio.to_thread(self.generate, *args, **kwargs)))
        return await asyncio.to_thread(self.generate, *args, **kwargs)

    async def _in_thread(self, outputs: Iterator[Output]) -> AsyncIterator[Output]:
        done = object()
        try:
            while (output := await asyncio.to_thread(next, outputs, done)) is not done:
                yield output  # type: ignore[misc]
        finally:
            outputs.close()  # type: ignore[attr-defined]

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        sampling_params: Params = None,
        *,
        stream: bool = False,
        **template: Any,
    ) -> Any:
        """Render a conversation with the model's chat template and answer it; more arguments go to the template."""
        ids = self._tokenizer().encode(self.render(messages, **template), add_special_tokens=False)
        params = as_params(sampling_params)
        ask = Ask(tokens=ids, params=params, stream=stream, to_the_end=True, arrived=time.monotonic())
        if stream:
            return self._streams([ask], self._shape, one=True)
        outputs = self._collect([ask], self._shape, bar=False)
        return outputs[0] if len(outputs) == 1 else outputs

    def render(self, messages: Sequence[dict[str, Any]], **template: Any) -> str:
        """The prompt that the chat template makes of a conversation."""
        if self._template is None:
            tokenizer = self._tokenizer()
            if tokenizer.chat_template is None:
                raise BadRequest("this model has no chat template; use generate, or give a --chat-template file")
            self._template = ChatTemplate(tokenizer.chat_template, tokenizer.names)
        return self._template.render(messages, **template)

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.chat_template is not None

    def room_after(self, messages: Sequence[dict[str, Any]]) -> int:
        """Tokens of the context that a conversation leaves for the answer, at least 1."""
        ids = self._tokenizer().encode(self.render(messages), add_special_tokens=False)
        return max(self.resolved.context - len(ids), 1)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise BadRequest("this engine has no tokenizer (skip_tokenizer_init): give input_ids", param="prompt")
        return self.tokenizer

    # -- orders ------------------------------------------------------------------------------------------------------

    def open_session(
        self, capacity_of_str_len: int, session_id: str | None = None, timeout: float | None = None
    ) -> str:
        """A session, by its id. Its capacity is counted in tokens; unused for `timeout` seconds, or a day, it ends."""
        order = self._client.order("open_session", session_id=session_id, capacity=capacity_of_str_len, timeout=timeout)
        return order.result()

    def close_session(self, session_id: str) -> None:
        """Forget a session, if it is still open."""
        self._client.order("close_session", session_id=session_id).result()

    def flush_cache(self) -> bool:
        """Forget all cached prefixes; False while requests run."""
        try:
            self._client.order("flush_cache").result()
        except BadRequest:
            return False
        return True

    def get_server_info(self) -> dict[str, Any]:
        """What runs, and how busy it is."""
        return {**info_of(self.resolved), "internal_states": [self._client.order("state").result()]}


def limits_of(resolved: Resolved) -> Limits:
    interval = resolved.settings.server.stream_interval
    return Limits(resolved.context, resolved.model.vocab, interval, resolved.rows + resolved.queue)


def info_of(resolved: Resolved) -> dict[str, Any]:
    """Settings and decisions, without secrets."""
    asked = {name: getattr(getattr(resolved.settings, room), name) for name, (room, _) in names().items()}
    decided = {decision.name: decision.value for decision in resolved.decisions}
    shown = {name: value for name, value in {**asked, **decided}.items() if name not in SECRETS}
    return {**shown, "max_total_num_tokens": resolved.memory.pool_tokens}


def raise_if_failed(news: News) -> None:
    finish = news.finish
    if finish is not None and finish.is_error:
        raise from_status(finish.status or 500, finish.message or "the request failed", code=finish.code)


def as_params(params: Params) -> SamplingParams:
    if isinstance(params, SamplingParams):
        params.check()
        return params
    return SamplingParams.parse(params)


def _per_prompt(value: Any, count: int, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise BadRequest(f"{len(value)} {name} for {count} prompts", param=name)
    return list(value)


def _rids(rid: str | Sequence[str] | None, count: int) -> list[str]:
    if rid is None:
        return [""] * count
    if isinstance(rid, str):
        return [rid] if count == 1 else [f"{rid}_{index}" for index in range(count)]
    if len(rid) != count or len(set(rid)) != count:
        raise BadRequest("rid needs a different id for each prompt", param="rid")
    return list(rid)


def _bar_wanted(asked: bool | None, prompts: int) -> bool:
    return asked if asked is not None else prompts >= BAR_ABOVE and sys.stderr.isatty()


class _Bar:
    """Requests done and tokens per second, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total, self._shown = total, shown

    def __enter__(self) -> _Bar:
        self._tokens, self._start = 0, time.monotonic()
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            console = Console(stderr=True)
            self._progress = Progress(*columns, console=console, transient=console.is_terminal)
            self._progress.start()
            self._task = self._progress.add_task("", total=self._total)
        return self

    def advance(self, tokens: int) -> None:
        self._tokens += tokens
        if self._shown:
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            self._progress.update(self._task, advance=1, description=f"{rate:.0f} tokens/s")

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._progress.stop()
