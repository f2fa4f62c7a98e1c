"""The Python face: an engine in this process, drop-in for `sglang.Engine`.

with ramify.Engine("path/to/model") as engine:
    print(engine.generate("Once upon a time", {"max_new_tokens": 32})["text"])
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

from ramify import __version__
from ramify.config.read import overlay
from ramify.config.resolve import SECRETS, Resolved
from ramify.config.settings import Settings, names, spellings
from ramify.core.convert import convert
from ramify.core.errors import BadRequest, from_status
from ramify.core.params import SamplingParams
from ramify.engine.arguments import (
    as_params,
    check_text,
    constrained,
    conversation,
    each,
    each_ids,
    flag,
    ids_of,
    key,
    number,
    per_prompt,
    priority_of,
    refuse_others,
    rids_of,
    texts_of,
    vectors_of,
)
from ramify.engine.ask import Ask, Limits, SessionParams, first_scored, hidden_of
from ramify.engine.build import load_model_tokenizer, prepare
from ramify.engine.client import Client
from ramify.engine.encoding import TextEncoding
from ramify.engine.generation import News
from ramify.engine.job import Bar, Job, Output, bar_wanted
from ramify.engine.outputs import Shape
from ramify.engine.vectors import placeholders
from ramify.text.template import ChatTemplate
from ramify.text.tokenizer import Tokenizer
from ramify.wire.channel import inproc
from ramify.wire.messages import Turn

log = logging.getLogger(__name__)

Params = SamplingParams | dict[str, Any] | None


class Engine:
    """Loads a model and serves it to this process. Keyword arguments are the command line's flags in snake_case.

    Methods may be called from several threads. `shutdown`, or leaving a `with` block, frees the model.
    """

    def __init__(self, model_path: str | None = None, **settings: Any) -> None:
        quiet = overlay(Settings(), {"log_level": "error", "log_interval": 0.0}, "default of Engine")
        asked = {"model_path": model_path, **settings}
        known = spellings()  # None is the default, as in SGLang; other names with None still have to be names
        given = {name: value for name, value in asked.items() if value is not None or name not in known}
        self._start(overlay(quiet, given, "argument of Engine", lambda name: f"Engine: {name}"))

    @classmethod
    def from_settings(cls, settings: Settings) -> Engine:
        """From settings that are complete already, as the command line makes them."""
        engine = cls.__new__(cls)
        engine._start(settings)
        return engine

    def _start(self, settings: Settings) -> None:
        from ramify.engine.assemble import assemble  # API workers read this module and run no engine

        self.resolved: Resolved = prepare(settings)
        self.tokenizer = load_model_tokenizer(self.resolved)
        engine_end, client_end = inproc()
        self._loop = assemble(self.resolved, engine_end)
        self._runner = threading.Thread(target=self._run, name="ramify-engine", daemon=True)
        self._client = Client(client_end, limits_of(self.resolved), self.tokenizer)
        self._shape = Shape(self.tokenizer, self.resolved.settings.model.weight_version)
        self._encoding = TextEncoding(self.resolved, self.tokenizer, self._shape)
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
            self._loop.close()

    # -- generating --------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Params | Sequence[Params] = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        stream: bool = False,
        progress: bool | None = None,
        **asked: Any,
    ) -> Any:
        """Generate from text, token ids or `input_embeds` [tokens, hidden], one prompt or a list.

        `asked` are, by the names of `/generate`: return_logprob, logprob_start_len, top_logprobs_num,
        token_ids_logprob, return_hidden_states, rid, extra_key, lora_path, deterministic, priority (each one value, or
        a list with one for every prompt) and return_text_in_logprobs; session_params ({id, rid, offset, replace,
        drop_previous_output}) make a prompt a turn of a session. Returns a dict like `/generate`'s for one prompt and a
        list of them for a list or for `n` above 1; with `stream`, an iterator of such dicts whose text grows. Raises
        `UserError` where a request is refused or fails. `progress` shows a bar on long work; None shows it on a
        terminal.
        """
        job = self._job(prompt, sampling_params, input_ids, stream, **asked)
        if stream:
            return self._parts(job)
        return self._whole(job, bar_wanted(progress, len(job.asks)))

    async def async_generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Params | Sequence[Params] = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        stream: bool = False,
        **asked: Any,
    ) -> Any:
        """`generate` without blocking the event loop; with `stream`, an async iterator. Cancelling aborts."""
        job = await asyncio.to_thread(self._job, prompt, sampling_params, input_ids, stream, **asked)
        if stream:
            return self._async_parts(job)
        async with contextlib.aclosing(self._async_news(job)) as arriving:
            async for _ in arriving:
                pass
        return job.outputs()

    def _job(
        self,
        prompt: Any,
        sampling_params: Any,
        input_ids: Any,
        stream: bool,
        *,
        return_logprob: Any = None,
        logprob_start_len: Any = None,
        top_logprobs_num: Any = None,
        token_ids_logprob: Any = None,
        rid: Any = None,
        priority: Any = None,
        extra_key: Any = None,
        return_hidden_states: Any = None,
        input_embeds: Any = None,
        session_params: Any = None,
        lora_path: Any = None,
        deterministic: Any = None,
        return_text_in_logprobs: bool = False,
        **others: Any,
    ) -> Job:
        """One `Ask` per prompt, with everything checked that can be said without the model."""
        refuse_others(others)
        tokens, vectors, one = self._prompts(prompt, input_ids, input_embeds)
        count, low_first = len(tokens), self.resolved.settings.schedule.schedule_low_priority_values_first
        turns = self._turns(session_params, tokens, one)
        preferred = self.resolved.preferred
        wanted = [constrained(params, preferred) for params in per_prompt(sampling_params, count, "sampling_params")]
        starts = each(logprob_start_len, count, "logprob_start_len", number, None)
        columns: dict[str, list[Any]] = {
            "tokens": [whole for whole, _ in turns],
            "turn": [turn for _, turn in turns],
            "vectors": vectors,
            "params": [params for params, _ in wanted],
            "notes": [notes for _, notes in wanted],
            "rid": rids_of(rid, count),
            "return_logprob": each(return_logprob, count, "return_logprob", flag, False),
            "logprob_start": [first_scored(s, p) for s, (p, _) in zip(starts, wanted, strict=True)],
            "top_logprobs": each(top_logprobs_num, count, "top_logprobs_num", number, 0),
            "token_ids_logprob": each_ids(token_ids_logprob, count, "token_ids_logprob"),
            "hidden": each(return_hidden_states, count, "return_hidden_states", hidden_of, "none"),
            "adapter": each(lora_path, count, "lora_path", key, ""),
            "invariant": each(deterministic, count, "deterministic", flag, False),
            "salt": each(extra_key, count, "extra_key", key, ""),
            "priority": [priority_of(one, low_first) for one in per_prompt(priority, count, "priority")],
        }
        same: dict[str, Any] = {"stream": stream, "arrived": time.monotonic()}
        asks = [Ask(**dict(zip(columns, row, strict=True)), **same) for row in zip(*columns.values(), strict=True)]
        version = self.resolved.settings.model.weight_version
        return Job(asks, Shape(self.tokenizer, version, return_text_in_logprobs), one)

    def _turns(self, places: Any, tokens: Sequence[Any], one: bool) -> list[tuple[Any, Turn | None]]:
        """Whole prompts, and their places in sessions."""
        if places is None:
            return [(new, None) for new in tokens]
        if isinstance(places, dict) != one:
            raise BadRequest("session_params: one for each prompt", param="session_params")
        asked = [
            convert(place, SessionParams, "session_params")
            for place in per_prompt(places, len(tokens), "session_params")
        ]
        known = [self._client.session_prompt(place).result() for place in asked]
        return [(self._client.joined(k, new), a.turn) for k, new, a in zip(known, tokens, asked, strict=True)]

    def _prompts(self, prompt: Any, input_ids: Any, embeds: Any) -> tuple[list[list[int]], list[bytes], bool]:
        """Token ids of each prompt, its vectors if it has no tokens, and whether there was one rather than a list."""
        if sum(given is not None for given in (prompt, input_ids, embeds)) != 1:
            raise BadRequest("give one of prompt, input_ids and input_embeds", param="prompt")
        if embeds is not None:
            width = self._client.limits.hidden
            vectors, one = vectors_of(embeds, width)
            return [placeholders(rows, width) for rows in vectors], vectors, one
        if input_ids is not None:
            tokens, one = ids_of(input_ids)
        else:
            texts, one = texts_of(prompt)
            tokens = self._tokenizer().encode_batch(texts)
        return tokens, [b""] * len(tokens), one

    def _whole(self, job: Job, bar: bool) -> Any:
        """All of them at once; results in the order of the prompts, choices of one prompt side by side."""
        with Bar(sum(ask.params.n for ask in job.asks), bar) as progress:
            for news in self._news(job):
                if news.finish is not None:
                    progress.advance(len(news.generation.ids))
        return job.outputs()

    def _parts(self, job: Job) -> Iterator[Output]:
        for news in self._news(job):
            yield job.part(news)

    async def _async_parts(self, job: Job) -> AsyncIterator[Output]:
        async with contextlib.aclosing(self._async_news(job)) as arriving:
            async for news in arriving:
                yield job.part(news)

    def _news(self, job: Job) -> Iterator[News]:
        """What comes in until all have ended. Whoever leaves early, or fails, aborts what is left."""
        inbox: queue.SimpleQueue[News] = queue.SimpleQueue()
        try:
            job.open(self._client, inbox.put)
            while job.waiting:
                news = inbox.get()
                raise_if_failed(news)
                yield job.taken(news)
        finally:
            job.leave(self._client)

    async def _async_news(self, job: Job) -> AsyncGenerator[News, None]:
        """The same in an event loop."""
        inbox: asyncio.Queue[News] = asyncio.Queue()
        try:
            job.open(self._client, self._client.into(inbox.put_nowait))
            while job.waiting:
                news = await inbox.get()
                raise_if_failed(news)
                yield job.taken(news)
        finally:
            job.leave(self._client)

    # -- embeddings and scores ---------------------------------------------------------------------------------------

    def encode(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        **asked: Any,
    ) -> Any:
        """What the model's head makes of texts or token ids, one or a list: an embedding, logits of classes, rewards.

        A pair of texts within a list is read as one, as cross-encoders do. `dimensions` cuts embeddings, `prompt_name`
        puts one of the model's own prompts before each text, `truncate` cuts what is too long instead of refusing it.
        `asked` may hold rid, priority, extra_key, lora_path and deterministic. Returns a dict like `/encode`'s, or a
        list of them.
        """
        job = self._encoding.job(prompt, input_ids, dimensions, prompt_name, truncate, **asked)
        for _ in self._news(job):
            pass
        return self._encoding.outputs(job, dimensions)

    async def async_encode(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        **asked: Any,
    ) -> Any:
        """`encode` without blocking the event loop."""
        job = await asyncio.to_thread(
            lambda: self._encoding.job(prompt, input_ids, dimensions, prompt_name, truncate, **asked)
        )
        async with contextlib.aclosing(self._async_news(job)) as arriving:
            async for _ in arriving:
                pass
        return self._encoding.outputs(job, dimensions)

    def rerank(self, prompt: Sequence[Sequence[str]], **asked: Any) -> Any:
        """How well the second of each pair answers the first, by a cross-encoder: as `encode`, with a number."""
        if not all(isinstance(pair, list | tuple) for pair in prompt):
            raise BadRequest("prompt should be a list of pairs of texts", param="prompt")
        outputs = self.encode(prompt, **asked)
        return [{**output, "embedding": self._encoding.relevance(output["embedding"])} for output in outputs]

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        sampling_params: Params = None,
        *,
        stream: bool = False,
        lora_path: str | None = None,
        **template: Any,
    ) -> Any:
        """Render a conversation with the model's chat template and answer it, with an adapter if `lora_path` names one;
        more arguments go to the template.
        """
        params = as_params(sampling_params)
        ids = self._rendered_ids(messages, **template)
        now, adapter = time.monotonic(), key(lora_path, "lora_path") if lora_path else ""
        ask = Ask(tokens=ids, params=params, stream=stream, to_the_end=True, arrived=now, adapter=adapter)
        job = Job([ask], self._shape, one=True)
        return self._parts(job) if stream else self._whole(job, bar=False)

    def render(self, messages: Sequence[dict[str, Any]], **template: Any) -> str:
        """The prompt that the chat template makes of a conversation."""
        plain = conversation(messages)
        if self._template is None:
            tokenizer = self._tokenizer()
            if tokenizer.chat_template is None:
                raise BadRequest("this model has no chat template; use generate, or give a --chat-template file")
            self._template = ChatTemplate(tokenizer.chat_template, tokenizer.names)
        return self._template.render(plain, **template)

    def _rendered_ids(self, messages: Sequence[dict[str, Any]], **template: Any) -> list[int]:
        prompt = check_text(self.render(messages, **template), "messages")
        return self._tokenizer().encode(prompt, add_special_tokens=False)

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.chat_template is not None

    def room_after(self, messages: Sequence[dict[str, Any]]) -> int:
        """Tokens of the context that a conversation leaves for the answer, at least 1."""
        return max(self.resolved.context - len(self._rendered_ids(messages)), 1)

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

    def load_lora_adapter(self, lora_name: str, lora_path: str, pinned: bool = False) -> dict[str, Any]:
        """Read an adapter (PEFT) while others compute; `generate(..., lora_path=lora_name)` then uses it. `pinned`: it
        stays in its slot. Raises `UserError` where it cannot be served.
        """
        order = self._client.order("load_adapter", name=lora_name, path=str(lora_path), pinned=pinned)
        return order.result()

    def unload_lora_adapter(self, lora_name: str) -> dict[str, Any]:
        """No request can name it any more; returns when those that had it have ended."""
        return self._client.order("unload_adapter", name=lora_name).result()

    def lora_adapters(self) -> list[dict[str, Any]]:
        """Every adapter that requests can name: name, id, path, rank, whether it is pinned, in memory, in a slot."""
        return self._client.order("adapters").result()

    def flush_cache(self) -> bool:
        """Forget all cached prefixes; False while requests run."""
        try:
            self._client.order("flush_cache").result()
        except BadRequest:
            return False
        return True

    def get_server_info(self) -> dict[str, Any]:
        """What runs, and how busy it is: as `/server_info` tells it."""
        return server_info_of(self.resolved, self._client.order("state").result())

    def get_model_info(self) -> dict[str, Any]:
        """What model this is: as `/model_info` tells it."""
        return model_info_of(self.resolved)


def limits_of(resolved: Resolved) -> Limits:
    server, model = resolved.settings.server, resolved.model
    return Limits(
        resolved.context,
        model.vocab,
        server.stream_interval,
        resolved.rows + resolved.queue,
        model.hidden,
        server.enable_return_hidden_states,
        resolved.settings.model.load_format != "none",
        model.head,
        resolved.adapters is not None,
        0 if resolved.adapters is None else resolved.adapters.added,
        resolved.invariance != "no",
    )


def info_of(resolved: Resolved) -> dict[str, Any]:
    """Settings and decisions, without secrets."""
    asked = {name: getattr(getattr(resolved.settings, room), name) for name, (room, _) in names().items()}
    decided = {decision.name: decision.value for decision in resolved.decisions}
    shown = {name: value for name, value in {**asked, **decided}.items() if name not in SECRETS}
    return {**shown, "max_total_num_tokens": resolved.memory.pool_tokens}


def server_info_of(resolved: Resolved, engine: dict[str, Any]) -> dict[str, Any]:
    """The facts of `/server_info`; `engine` is what the engine says of its state."""
    return {
        **info_of(resolved),
        "internal_states": [engine],
        "max_req_input_len": resolved.context - 1,
        "status": "ready",
        "version": __version__,
    }


def model_info_of(resolved: Resolved) -> dict[str, Any]:
    """The facts of `/model_info`."""
    model = resolved.settings.model
    path = model.model_path or str(resolved.folder)
    return {
        "model_path": path,
        "served_model_name": resolved.served_name,
        "tokenizer_path": model.tokenizer_path or path,
        "is_generation": resolved.model.head is None,
        "preferred_sampling_params": resolved.settings.server.preferred_sampling_params,
        "weight_version": model.weight_version,
        "load_format": model.load_format,
        "reasoning_parser": None,
        "tool_call_parser": None,
        "disaggregation_mode": "null",
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": resolved.model.raw.get("model_type"),
        "architectures": [resolved.model.architecture],
    }


def raise_if_failed(news: News) -> None:
    finish = news.finish
    if finish is not None and finish.is_error:
        raise from_status(finish.status or 500, finish.message or "the request failed", code=finish.code)
