"""SGLang's native routes: `/generate` and what describes the server."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ramify.core import params
from ramify.core.errors import BadRequest
from ramify.core.params import SamplingParams
from ramify.engine.ask import Ask, SessionParams, first_scored, hidden_of
from ramify.engine.constraints import of_sampling
from ramify.engine.engine import model_info_of, server_info_of
from ramify.engine.generation import News
from ramify.engine.outputs import Flat, Shape
from ramify.engine.vectors import as_bytes, is_one, placeholders
from ramify.server.ask import per_item, request_ids, routes_of, split_prompts, tokenize
from ramify.server.feed import Feed, collect
from ramify.server.sessions import continued, one_each
from ramify.server.sse import EventStream, as_json, frame
from ramify.server.state import State
from ramify.server.takes import Takes
from ramify.text.tools.choose import NONE

Ids = list[int]
Hidden = bool | Literal["last", "full"] | None


class GenerateRequest(msgspec.Struct, kw_only=True):
    """The body of `/generate`: SGLang's fields that a text model can honour, and those that change no answer."""

    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    input_embeds: list[list[float | list[float]]] | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    stream: bool = False
    rid: str | list[str] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    token_ids_logprob: list[int | list[int] | None] | None = None
    return_text_in_logprobs: bool = False
    return_flat_raw_top_logprobs: bool = False
    return_flat_raw_output_top_logprobs: bool = False
    return_flat_raw_top_logprobs_b64: bool = False
    return_prompt_token_ids: bool = False
    return_hidden_states: Hidden | list[Hidden] = None
    priority: int | list[int | None] | None = None
    extra_key: str | list[str | None] | None = None
    cache_salt: str | list[str | None] | None = None
    lora_path: str | list[str | None] | None = None
    deterministic: bool = False
    session_params: SessionParams | list[SessionParams] | None = None
    no_logs: bool = False
    require_reasoning: bool = False


class Generated(msgspec.Struct, kw_only=True):
    """A generation, or in a stream all of it so far. `index` tells the items of a list apart in a stream.

    `meta_info` has the keys of SGLang: id, finish_reason, prompt_tokens, completion_tokens, cached_tokens, ...
    """

    output_ids: list[int]
    meta_info: dict[str, Any]
    text: str | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    index: int | UnsetType = UNSET


NO_EFFECT = {
    "log_metrics": "every request is counted",
    "custom_labels": "metrics have no labels of requests",
    "conversation_id": "the prefix cache finds conversations by their tokens",
    "session_id": "the prefix cache finds conversations by their tokens",
    "routing_key": "there is nothing to route",
    "background": "use priority",
    "kv_hints": "the cache decides by use",
    "modalities": "the model reads text",
    **{f"sampling_params.{name}": why for name, why in params.NO_EFFECT.items()},
}
REFUSED = {
    "image_data": "images",
    "video_data": "videos",
    "audio_data": "audio",
    "custom_logit_processor": "custom logit processors",
    "return_routed_experts": "mixture-of-experts models",
    "return_indexer_topk": "sparse attention",
    "return_sampling_mask": "sampling masks",
    "return_entropy": "entropies",
    "return_bytes": "raw bytes",
    "max_thinking_tokens": "budgets of reasoning",
    "bootstrap_host": "disaggregation",
    "bootstrap_port": "disaggregation",
    "bootstrap_room": "disaggregation",
    "routed_dp_rank": "data parallelism",
    "data_parallel_rank": "data parallelism",
    "watermark": "watermarks",
    "positional_embed_overrides": "embeddings as input",
    "multi_item_delimiter_indices": "multi-item scoring",
    "token_indices_to_pool": "pooling",
    "decode_tp_size": "disaggregation",
    "disagg_prefill_dp_rank": "disaggregation",
    "bootstrap_pair_key": "disaggregation",
    "routed_experts_start_len": "mixture-of-experts models",
    "sampling_logprobs_mode": "sampling masks",
    "mm_hashes": "images",
    "mm_content_hashes": "images",
    "mm_processor_kwargs": "images",
    "images_config": "images",
    "image_max_dynamic_patch": "images",
    "max_dynamic_patch": "images",
    "min_dynamic_patch": "images",
    "video_config": "videos",
    "video_max_dynamic_patch": "videos",
    "use_audio_in_video": "videos",
}
TAKES = Takes(GenerateRequest, NO_EFFECT, REFUSED)


async def generate(request: Request, state: State, asked: GenerateRequest) -> Any:
    """Complete one prompt, or a list of them: SGLang's native route."""
    state.check_open()
    shape = _shape(state, asked)
    asks, batch = await _asks(state, asked)
    many = batch or len(asks) > 1 or asks[0].params.n > 1
    if asked.stream:
        keep_alive = state.resolved.settings.server.keep_alive_interval
        feed = Feed(state, asks, logged=not asked.no_logs)
        return await EventStream.over(_Frames(state, asks, shape, many), feed, keep_alive)
    generations = await collect(state, asks, logged=not asked.no_logs)
    outputs = [shape.whole(generation) for generation in generations]
    return as_json(outputs if many else outputs[0])


def _shape(state: State, asked: GenerateRequest) -> Shape:
    if asked.return_flat_raw_output_top_logprobs and asked.stream:
        raise BadRequest(
            "return_flat_raw_output_top_logprobs does not go with stream", param="return_flat_raw_output_top_logprobs"
        )
    flat = Flat(
        asked.return_flat_raw_top_logprobs,
        asked.return_flat_raw_output_top_logprobs,
        asked.return_flat_raw_top_logprobs_b64,
    )
    version = state.resolved.settings.model.weight_version
    return Shape(state.tokenizer, version, asked.return_text_in_logprobs, flat, asked.return_prompt_token_ids)


async def _asks(state: State, asked: GenerateRequest) -> tuple[list[Ask], bool]:
    """One `Ask` per prompt, and whether the body had a list of prompts."""
    tokens, vectors, batch = await _prompts(state, asked)
    count = len(tokens)
    after = _end_of_reasoning(state) if asked.require_reasoning else ""
    split = [of_sampling(raw, after) for raw in per_item(asked.sampling_params, count, "sampling_params")]
    params = [SamplingParams.parse({**state.preferred, **raw}) for raw, _ in split]
    if len({p.n for p in params}) > 1:
        raise BadRequest("all sampling_params must agree on n", param="n")
    rids = request_ids(asked.rid, count, batch)
    wanted = per_item(asked.return_logprob, count, "return_logprob")
    starts = per_item(asked.logprob_start_len, count, "logprob_start_len")
    tops = per_item(asked.top_logprobs_num, count, "top_logprobs_num")
    ids = _per_prompt_ids(asked.token_ids_logprob, count)
    hidden = per_item(asked.return_hidden_states, count, "return_hidden_states")
    routes = routes_of(state, asked, count)
    now = time.monotonic()
    sessions = one_each(asked.session_params, count, batch)
    prompts = [await continued(state, sessions[i], tokens[i]) for i in range(count)]
    asks = [
        Ask(
            tokens=prompts[i][0],
            params=params[i],
            rid=rids[i],
            stream=asked.stream,
            return_logprob=bool(wanted[i]),
            logprob_start=first_scored(starts[i], params[i]),
            top_logprobs=tops[i] or 0,
            token_ids_logprob=ids[i] or (),
            hidden=hidden_of(hidden[i]),
            vectors=vectors[i],
            notes=split[i][1],
            arrived=now,
            turn=prompts[i][1],
            **routes[i],
        )
        for i in range(count)
    ]
    return asks, batch


def _end_of_reasoning(state: State) -> str:
    reasoning = state.speech.formats.reasoning
    if not reasoning.end:
        raise BadRequest("the reasoning of this model is not known; set --reasoning-parser", param="require_reasoning")
    return reasoning.end[0]


async def _prompts(state: State, asked: GenerateRequest) -> tuple[list[Ids], list[bytes], bool]:
    """The tokens of each prompt, its vectors if it has no tokens, and whether there was a list of prompts."""
    fields = {"text": asked.text, "input_ids": asked.input_ids, "input_embeds": asked.input_embeds}
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if len(given) != 1:
        raise BadRequest("give exactly one of text, input_ids and input_embeds", param="text")
    ((name, value),) = given.items()
    if name == "input_embeds":
        return await _vectors(state, value)
    prompts, batch = split_prompts(value, name)
    return (await tokenize(state, prompts) if name == "text" else prompts), [b""] * len(prompts), batch


async def _vectors(state: State, given: list[Any]) -> tuple[list[Ids], list[bytes], bool]:
    one, width = is_one(given), state.client.limits.hidden
    prompts, _ = split_prompts([given] if one else given, "input_embeds")
    found = [await state.off_loop(as_bytes, rows, width) for rows in prompts]
    return [placeholders(vectors, width) for vectors in found], found, not one


def _per_prompt_ids(value: Any, count: int) -> list[Any]:
    """A list of ids for all prompts, or one list for each."""
    if value and any(isinstance(entry, list) or entry is None for entry in value):
        return per_item(value, count, "token_ids_logprob")
    return [value] * count


# -- answers -----------------------------------------------------------------------------------------------------------


def rids_of(ask: Ask) -> list[str]:
    """The ids of a request's choices."""
    return [ask.rid] if ask.params.n == 1 else [f"{ask.rid}_{choice}" for choice in range(ask.params.n)]


class _Frames:
    """Cumulative, or with --incremental-streaming-output what is new."""

    def __init__(self, state: State, asks: list[Ask], shape: Shape, many: bool) -> None:
        self._deltas = state.resolved.settings.server.incremental_streaming_output
        self._index = {rid: number for number, rid in enumerate(rid for ask in asks for rid in rids_of(ask))}
        self._sent = dict.fromkeys(self._index, 0)
        self._shape = shape
        self._many = many

    def begin(self) -> bytes:
        return b""

    def news(self, news: News) -> bytes:
        rid = news.generation.submit.rid
        first, text = (self._sent[rid], news.text) if self._deltas else (0, news.generation.text[: news.said])
        self._sent[rid] = news.tokens
        output = self._shape.part(news.generation, first, news.tokens, text)
        if self._many:
            output["index"] = self._index[rid]
        return frame(output)

    def end(self) -> bytes:
        return b""


# -- information -------------------------------------------------------------------------------------------------------


async def model_info(request: Request, state: State, _: None) -> Response:
    """What model this is."""
    return as_json(model_info_of(state.resolved) | parsers_of(state))


def parsers_of(state: State) -> dict[str, str | None]:
    """The names of the formats that answers are read by."""
    formats = state.speech.formats
    names = {"reasoning_parser": formats.reasoning.name, "tool_call_parser": formats.tools.name}
    return {key: None if name == NONE else name for key, name in names.items()}


async def server_info(request: Request, state: State, _: None) -> Response:
    """Every resolved setting, and the state of the engine."""
    asleep = state.link.phase == "asleep"
    engine = {} if asleep else await asyncio.wrap_future(state.client.order("state"))
    return as_json({**server_info_of(state.resolved, engine), "frontend": "python"})
