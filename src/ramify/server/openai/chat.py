"""`/v1/chat/completions`: OpenAI's, with SGLang's extensions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from msgspec import UNSET, UnsetType
from starlette.requests import Request

from ramify.core.errors import BadRequest
from ramify.core.finish import Finish
from ramify.engine.ask import Ask, check_rid, new_rid
from ramify.engine.constraints import note_of
from ramify.engine.generation import Generation, News
from ramify.engine.outputs import Shape
from ramify.engine.speech import Reading, Tools, shape
from ramify.server.feed import Feed, collect
from ramify.server.native import rids_of
from ramify.server.openai import common
from ramify.server.openai.answers import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
    SglExt,
    Usage,
)
from ramify.server.openai.common import SamplingFields
from ramify.server.openai.conversation import MESSAGES, TOOLS, Reasoning, Thinking, encode, text_of
from ramify.server.openai.reading import Told, Whole, read_whole
from ramify.server.openai.toolchoice import CHOICE, tools_of
from ramify.server.sessions import continued
from ramify.server.sse import EventStream, as_json, frame
from ramify.server.state import State
from ramify.server.takes import Takes, warn


class ChatRequest(SamplingFields, kw_only=True):
    """The body of `/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    thinking: bool | Thinking | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    separate_reasoning: bool = True
    stream_reasoning: bool = True
    return_prompt_token_ids: bool = False
    return_meta_info: bool = False
    return_input_ids_in_sglext: bool = False
    return_output_ids_in_sglext: bool = False


NO_EFFECT = common.NO_EFFECT | {
    "modalities": "the model writes text",
    "prompt_cache_options": "the prefix cache decides by use",
    "return_flat_raw_top_logprobs_b64": "it only says how flat log probabilities are written",
}
REFUSED = {
    **common.REFUSED,
    "functions": "functions in the form that tools replaced",
    "audio": "audio",
    "prediction": "predicted outputs",
    "function_call": "calls in the form that tools replaced",
    "moderation": "moderation",
    "return_flat_raw_output_top_logprobs": "flat log probabilities in chat answers",
    "sampling_logprobs_mode": "sampling masks",
    "task": "document tasks",
    "max_dynamic_patch": "images",
    "min_dynamic_patch": "images",
    "video_config": "videos",
    "use_audio_in_video": "videos",
    "web_search_options": "web search",
    "input_ids": "token ids in chat",
    "chat_template": "templates in requests",
}
NAMES = {**common.NAMES, "input_ids": "messages", "top_logprobs_num": "top_logprobs"}
PARTS = {"messages": MESSAGES, "tools": TOOLS | None, "tool_choice": CHOICE | None}
TAKES = Takes(ChatRequest, NO_EFFECT, REFUSED, parts=PARTS)


async def create(request: Request, state: State, asked: ChatRequest) -> Any:
    """The next message of a conversation: OpenAI's chat completions, with SGLang's extensions."""
    state.check_open()
    state.check_model(asked.model)
    tools = tools_of(asked)
    ask, reading, warnings = await _ask(state, asked, tools)
    for text in warnings:
        warn(state, request, text)
    answer = _Answer(state, asked, ask, reading)
    if asked.streams:
        keep_alive = state.resolved.settings.server.keep_alive_interval
        return await EventStream.over(answer, Feed(state, [ask]), keep_alive)
    generations = await collect(state, [ask])
    if reading.is_plain:
        return as_json(answer.whole(generations))
    return as_json(await state.off_loop(answer.whole, generations))


async def _ask(state: State, asked: ChatRequest, tools: Tools | None) -> tuple[Ask, Reading, list[str]]:
    """What is asked of the engine, how the answer is read, and what of the request cannot be done."""
    if asked.top_logprobs is not None and not asked.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    if asked.top_logprobs is not None and not 0 <= asked.top_logprobs <= common.MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs should be between 0 and {common.MAX_TOP_LOGPROBS}", param="top_logprobs")
    prompt, new = await encode(state, asked)
    reading = state.speech.reading(
        prompt,
        tools,
        partial=text_of(asked.messages[-1]) if asked.continue_final_message else None,
        separate=asked.separate_reasoning,
        stream_reasoning=asked.stream_reasoning,
    )
    shaped = shape(reading, tools, common.wanted(asked))
    tokens, turn = await continued(state, asked.session_params, new)
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    ask = Ask(
        tokens=tokens,
        params=common.sampling_params(state, asked, most),
        rid=new_rid() if asked.rid is None else check_rid(asked.rid),
        stream=asked.streams,
        to_the_end=True,
        notes=note_of(shaped.constraint),
        marks=reading.marks,
        return_logprob=bool(asked.logprobs),
        top_logprobs=asked.top_logprobs or 0,
        arrived=time.monotonic(),
        turn=turn,
        **common.routing(state, asked),
    )
    if tools is not None and not state.speech.formats.tools.shapes:
        shaped.warnings.append("the chat template shows no way to call tools: the model may not know of them")
    return ask, reading, shaped.warnings


class _Answer:
    """One request's answer, whole or in chunks."""

    def __init__(self, state: State, asked: ChatRequest, ask: Ask, reading: Reading) -> None:
        self._state = state
        self._asked = asked
        self._model = state.told_as(asked.model)
        self._reading = reading
        self._index = {rid: number for number, rid in enumerate(rids_of(ask))}
        self._id = ask.rid
        self._prompt = list(ask.tokens)
        self._created = int(time.time())
        self._told: dict[str, Told] = {}  # by request
        self._finished: list[Generation] = []

    def whole(self, generations: list[Generation]) -> ChatCompletion:
        told = [read_whole(self._reading, generation, self._state.tokenizer) for generation in generations]
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(*pair) for pair in zip(generations, told, strict=True)],
            usage=common.usage(self._state, generations, sum(one.reasoning_tokens for one in told)),
            metadata=common.metadata(self._state),
            sglext=self._extension(generations),
        )

    def _choice(self, generation: Generation, told: Whole) -> ChatChoice:
        finish = generation.finish
        choice = ChatChoice(
            index=self._index[generation.submit.rid],
            message=told.message,
            logprobs=self._logprobs(generation, 0, len(generation.ids)),
            finish_reason=None if finish is None else _reason(finish, bool(told.message.tool_calls)),
            matched_stop=finish.matched if finish is not None else None,
        )
        if self._asked.return_hidden_states:
            choice.hidden_states = common.last_hidden(self._asked, generation)
        if self._asked.return_token_ids:
            choice.response_token_ids = generation.ids
        if self._asked.return_token_ids or self._asked.return_prompt_token_ids:
            choice.prompt_token_ids = generation.submit.tokens
        if self._asked.return_meta_info:
            version = self._state.resolved.settings.model.weight_version
            choice.meta_info = Shape(self._state.tokenizer, version).whole(generation)["meta_info"]
        return choice

    def _logprobs(self, generation: Generation, first: int, last: int) -> ChatLogprobs | None:
        if not self._asked.logprobs or generation.output_logprobs is None:
            return None
        return common.chat_logprobs(self._state.words(), generation.output_logprobs, generation.ids, first, last)

    def _extension(self, generations: list[Generation]) -> SglExt | UnsetType:
        asked = self._asked
        return common.extension(
            generations,
            cached=asked.return_cached_tokens_details,
            prompt=asked.return_input_ids_in_sglext,
            output=asked.return_output_ids_in_sglext,
        )

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)

    # -- in events -----------------------------------------------------------------------------------------------------

    def begin(self) -> bytes:
        """The role of each choice."""
        opening, asked = Delta(role="assistant", content=""), self._asked
        prompt = self._prompt if asked.return_token_ids or asked.return_prompt_token_ids else UNSET
        choices = (ChunkChoice(index=i, delta=opening, prompt_token_ids=prompt) for i in self._index.values())
        return b"".join(frame(self._chunk([choice])) for choice in choices)

    def news(self, news: News) -> bytes:
        options, rid = self._asked.stream_options, news.generation.submit.rid
        told = self._told.get(rid)
        if told is None:
            told = self._told[rid] = Told(self._reading)
        choices = list(self._choices(news, told))
        each = options is not None and options.continuous_usage_stats
        usage = common.usage(self._state, [news.generation], told.reasoning_tokens) if each else None
        if news.finish is not None:
            self._finished.append(news.generation)
        return b"".join([frame(self._chunk([choice], usage)) for choice in choices])

    def end(self) -> bytes:
        """SGLang's extension and the usage, if they were asked for."""
        options, last = self._asked.stream_options, b""
        for generation in self._finished if self._asked.return_hidden_states else ():
            delta = Delta(hidden_states=common.last_hidden(self._asked, generation))
            last += frame(self._chunk([ChunkChoice(index=self._index[generation.submit.rid], delta=delta)]))
        if (extension := self._extension(self._finished)) is not UNSET:
            chunk = self._chunk([])
            chunk.sglext = extension
            last += frame(chunk)
        if options is not None and options.include_usage:
            reasoning = sum(told.reasoning_tokens for told in self._told.values())
            last += frame(self._chunk([], common.usage(self._state, self._finished, reasoning)))
        return last

    def _choices(self, news: News, told: Told) -> Iterator[ChunkChoice]:
        """Log probabilities come with the first piece of what their tokens said."""
        generation, first = news.generation, told.tokens
        index = self._index[generation.submit.rid]
        deltas = told.deltas(news)
        logprobs = self._logprobs(generation, first, news.tokens) if news.tokens > first else None
        ids = generation.ids[first : news.tokens] if self._asked.return_token_ids else UNSET
        if (logprobs or ids) and not deltas:
            deltas = [Delta(content="")]
        for delta in deltas:
            yield ChunkChoice(index=index, delta=delta, logprobs=logprobs, response_token_ids=ids)
            logprobs, ids = None, UNSET
        if (finish := news.finish) is not None:
            reason = _reason(finish, told.calls > 0)
            yield ChunkChoice(index=index, delta=Delta(), finish_reason=reason, matched_stop=finish.matched)


def _reason(finish: Finish, calls: bool) -> FinishReason:
    return "tool_calls" if calls and finish.type == "stop" else finish.type
