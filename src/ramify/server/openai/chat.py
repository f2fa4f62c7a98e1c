"""`/v1/chat/completions`: OpenAI's, with SGLang's extensions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.requests import Request

from ramify.core.errors import BadRequest, UserError
from ramify.engine.ask import Ask, check_rid, new_rid
from ramify.engine.generation import Generation, News
from ramify.server.errors import stream_error
from ramify.server.native import collect, news_of, rids_of
from ramify.server.openai import common
from ramify.server.openai.answers import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    Message,
    Usage,
)
from ramify.server.openai.common import SamplingFields
from ramify.server.openai.conversation import Reasoning, encode
from ramify.server.sessions import continued
from ramify.server.sse import DONE, Ahead, EventStream, as_json, frame
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
    return_token_ids: bool = False
    return_prompt_token_ids: bool = False


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
    "chat_template": "templates in requests",
}
TAKES = Takes(ChatRequest, NO_EFFECT, REFUSED)


async def create(request: Request, state: State, asked: ChatRequest) -> Any:
    """The next message of a conversation: OpenAI's chat completions, with SGLang's extensions."""
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
    return as_json(answer.whole(await collect(state, [ask])))


async def _ask(state: State, asked: ChatRequest) -> Ask:
    _check_format(asked.response_format)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    if asked.top_logprobs is not None and not 0 <= asked.top_logprobs <= common.MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs should be between 0 and {common.MAX_TOP_LOGPROBS}", param="top_logprobs")
    _, new = await encode(state, asked)
    tokens, turn = await continued(state, asked.session_params, new)
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
        turn=turn,
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

    def whole(self, generations: list[Generation]) -> ChatCompletion:
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._state.resolved.served_name,
            choices=[self._choice(generation) for generation in generations],
            usage=common.usage(self._state, generations),
            metadata=common.metadata(self._state),
        )

    def _choice(self, generation: Generation) -> ChatChoice:
        finish = generation.finish
        choice = ChatChoice(
            index=self._index[generation.submit.rid],
            message=Message(content=generation.text),
            logprobs=self._logprobs(generation, 0, len(generation.ids)),
            finish_reason=finish.type if finish is not None else None,
            matched_stop=finish.matched if finish is not None else None,
        )
        if self._asked.return_token_ids:
            choice.response_token_ids = generation.ids
        if self._asked.return_token_ids or self._asked.return_prompt_token_ids:
            choice.prompt_token_ids = generation.submit.tokens
        return choice

    def _logprobs(self, generation: Generation, first: int, last: int) -> ChatLogprobs | None:
        if not self._asked.logprobs or generation.output_logprobs is None:
            return None
        return common.chat_logprobs(self._state.words(), generation.output_logprobs, generation.ids, first, last)

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self._id, created=self._created, model=self._state.resolved.served_name, choices=choices, usage=usage
        )

    async def frames(self, source: Ahead[News]) -> AsyncGenerator[bytes, None]:
        """The role of each choice, its content, its finish; then usage if asked for, and [DONE]."""
        options = self._asked.stream_options
        sent: dict[str, int] = {}
        finished: list[Generation] = []
        try:
            for index in self._index.values():
                yield frame(self._chunk([ChunkChoice(index=index, delta=Delta(role="assistant", content=""))]))
            async for news in source:
                for choice in self._news(news, sent):
                    each = options is not None and options.continuous_usage_stats
                    usage = common.usage(self._state, [news.generation]) if each else None
                    yield frame(self._chunk([choice], usage))
                if news.finish is not None:
                    finished.append(news.generation)
            if options is not None and options.include_usage:
                yield frame(self._chunk([], common.usage(self._state, finished)))
        except UserError as e:
            yield frame(stream_error(e))
        yield DONE

    def _news(self, news: News, sent: dict[str, int]) -> Iterator[ChunkChoice]:
        generation = news.generation
        rid = generation.submit.rid
        index, first = self._index[rid], sent.get(rid, 0)
        logprobs = self._logprobs(generation, first, news.tokens) if news.tokens > first else None
        if news.text or logprobs:
            sent[rid] = news.tokens
            yield ChunkChoice(index=index, delta=Delta(content=news.text), logprobs=logprobs)
        if (finish := news.finish) is not None:
            yield ChunkChoice(index=index, delta=Delta(), finish_reason=finish.type, matched_stop=finish.matched)
