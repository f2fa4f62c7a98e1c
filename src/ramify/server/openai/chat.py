"""`/v1/chat/completions`: OpenAI's, with SGLang's extensions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from ramify.core.errors import BadRequest, UserError
from ramify.engine.ask import Ask, check_rid, new_rid
from ramify.engine.generation import Generation, News
from ramify.server.errors import stream_error
from ramify.server.native import collect, news_of, rids_of
from ramify.server.openai import common
from ramify.server.openai.common import SamplingFields
from ramify.server.openai.conversation import Reasoning, encode
from ramify.server.sse import DONE, Ahead, EventStream, frame
from ramify.server.state import State
from ramify.server.takes import Takes


class ChatRequest(SamplingFields, kw_only=True):
    """The body of `/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    separate_reasoning: bool = True
    stream_reasoning: bool = True


NO_EFFECT = common.NO_EFFECT | {
    "parallel_tool_calls": "there are no tools",
    "modalities": "the model writes text",
}
REFUSED = {
    **common.REFUSED,
    "functions": "tool calling",
    "audio": "audio",
    "prediction": "predicted outputs",
    "web_search_options": "web search",
    "input_ids": "token ids in chat",
    "return_token_ids": "token ids in OpenAI answers",
    "return_prompt_token_ids": "token ids in OpenAI answers",
    "chat_template": "templates in requests",
}
TAKES = Takes(ChatRequest, NO_EFFECT, REFUSED)


async def create(request: Request, state: State, asked: ChatRequest) -> Any:
    state.check_open()
    if asked.tool_choice not in (None, "none", "auto"):
        raise BadRequest(
            "tool_choice needs tool calling, which this version of ramify does not have", param="tool_choice"
        )
    state.check_model(asked.model)
    ask = await _ask(state, asked)
    answer = _Answer(state, asked, ask)
    if asked.streams:
        keep_alive = state.resolved.settings.server.keep_alive_interval
        news = await Ahead(news_of(state, [ask])).look(keep_alive)
        return EventStream(answer.frames(news), news, keep_alive)
    return JSONResponse(answer.whole(await collect(state, [ask])))


async def _ask(state: State, asked: ChatRequest) -> Ask:
    _check_format(asked.response_format)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    if asked.top_logprobs is not None and not 0 <= asked.top_logprobs <= common.MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs should be between 0 and {common.MAX_TOP_LOGPROBS}", param="top_logprobs")
    _, tokens = await encode(state, asked)
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    return Ask(
        tokens=tokens,
        params=common.sampling_params(state, asked, most),
        rid=new_rid() if asked.rid is None else check_rid(asked.rid),
        stream=asked.streams,
        to_the_end=True,
        return_logprob=bool(asked.logprobs),
        top_logprobs=asked.top_logprobs or 0,
        arrived=time.monotonic(),
        **common.routing(state, asked),
    )


def _check_format(wanted: dict[str, Any] | None) -> None:
    kind = (wanted or {}).get("type", "text")
    if kind != "text":
        raise BadRequest(
            f"response_format {kind!r} needs structured output, which this version of ramify does not have",
            param="response_format",
        )


class _Answer:
    """One request's answer, whole or in chunks."""

    def __init__(self, state: State, asked: ChatRequest, ask: Ask) -> None:
        self._state = state
        self._asked = asked
        self._index = {rid: number for number, rid in enumerate(rids_of(ask))}
        self._id = ask.rid
        self._created = int(time.time())

    def whole(self, generations: list[Generation]) -> dict[str, Any]:
        return {
            **self._envelope("chat.completion", [self._choice(generation) for generation in generations]),
            "usage": common.usage(self._state, generations),
            "metadata": {"weight_version": self._state.resolved.settings.model.weight_version},
        }

    def _choice(self, generation: Generation) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": generation.text,
            "reasoning_content": None,
            "tool_calls": None,
            "refusal": None,
        }
        logprobs = self._logprobs(generation, 0, len(generation.ids))
        choice = {"index": self._index[generation.submit.rid], "message": message, "logprobs": logprobs}
        return choice | common.finish_fields(generation.finish)

    def _envelope(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._state.resolved.served_name,
            "choices": choices,
        }

    def _logprobs(self, generation: Generation, first: int, last: int) -> dict[str, Any] | None:
        if not self._asked.logprobs or generation.output_logprobs is None:
            return None
        return common.chat_logprobs(self._state.words(), generation.output_logprobs, generation.ids, first, last)

    def _chunk(self, rid: str, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {
            "index": self._index[rid],
            "delta": delta,
            "logprobs": None,
            "finish_reason": None,
            "matched_stop": None,
        }
        return self._envelope("chat.completion.chunk", [choice | more]) | {"usage": None}

    async def frames(self, source: Ahead[News]) -> AsyncGenerator[bytes, None]:
        """The role of each choice, its content, its finish; then usage if asked for, and [DONE]."""
        options = self._asked.stream_options
        sent: dict[str, int] = {}
        finished: list[Generation] = []
        try:
            for rid in self._index:
                yield frame(self._chunk(rid, {"role": "assistant", "content": ""}))
            async for news in source:
                for chunk in self._news(news, sent):
                    if options is not None and options.continuous_usage_stats:
                        chunk["usage"] = common.usage(self._state, [news.generation])
                    yield frame(chunk)
                if news.finish is not None:
                    finished.append(news.generation)
            if options is not None and options.include_usage:
                last = self._envelope("chat.completion.chunk", [])
                yield frame(last | {"usage": common.usage(self._state, finished)})
        except UserError as e:
            yield frame(stream_error(e))
        yield DONE

    def _news(self, news: News, sent: dict[str, int]) -> list[dict[str, Any]]:
        generation, chunks = news.generation, []
        rid = generation.submit.rid
        first = sent.get(rid, 0)
        logprobs = self._logprobs(generation, first, news.tokens) if news.tokens > first else None
        if news.text or logprobs:
            chunks.append(self._chunk(rid, {"content": news.text}, logprobs=logprobs))
            sent[rid] = news.tokens
        if news.finish is not None:
            chunks.append(self._chunk(rid, {}, **common.finish_fields(news.finish)))
        return chunks
