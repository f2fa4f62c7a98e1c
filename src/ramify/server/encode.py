"""SGLang's native routes for models with a head: `/encode` and `/classify`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ramify.core.errors import BadRequest
from ramify.engine.outputs import Shape
from ramify.engine.pooled import check_dimensions, encoded, prompt_of
from ramify.server import pooled
from ramify.server.pooled import PoolingFields
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes
from ramify.text.passages import Passage

Ids = list[int | list[int]]


class EncodeRequest(PoolingFields, kw_only=True):
    """The body of `/encode` and `/classify`: texts, pairs of texts for a cross-encoder, or token ids."""

    text: str | list[str | list[str]] | None = None
    input_ids: Ids | None = None
    dimensions: int | None = None
    prompt_name: str | None = None
    is_cross_encoder_request: bool = False
    return_prompt_token_ids: bool = False


class Encoded(msgspec.Struct, kw_only=True):
    """`embedding` is what the model's head gives: an embedding, the logits of the classes, or a reward, one for every
    step where they are of steps. `meta_info` has SGLang's keys: id, prompt_tokens, cached_tokens, finish_reason, ...
    """

    embedding: list[float]
    meta_info: dict[str, Any]
    prompt_token_ids: list[int] | UnsetType = UNSET


TAKES = Takes(
    EncodeRequest,
    {
        "log_metrics": "every request is counted",
        "modalities": "the model reads text",
        "routing_key": "there is nothing to route",
        "background": "use priority",
        "sampling_params": "nothing is sampled",
        "http_worker_ipc": "the process that asks is the one that answers",
        "received_time": "this server has its own clock",
    },
    {
        **pooled.REFUSED,
        "input_embeds": "embeddings as input",
        "image_data": "images",
        "video_data": "videos",
        "audio_data": "audio",
        "lora_id": "ids of adapters that clients choose",
        "positional_embed_overrides": "embeddings as input",
        "external_trace_header": "traces",
        "return_pooled_hidden_states": "hidden states as output",
        "multi_item_delimiter_indices": "multi-item scoring",
        "token_indices_to_pool": "multi-item scoring",
        "decision_layout": "decisions",
    },
)


async def encode(request: Request, state: State, asked: EncodeRequest) -> Response:
    """What the model's head makes of texts: embeddings, logits of classes, rewards."""
    state.check_open()
    state.check_model(asked.model)
    head = pooled.head_of(state)
    check_dimensions(head, asked.dimensions)
    passages, many = await _passages(state, asked)
    generations = await pooled.pool(state, passages, many, asked)
    shape = Shape(state.tokenizer, state.resolved.settings.model.weight_version)
    outputs = [encoded(generation, head, shape, asked.dimensions) for generation in generations]
    if asked.return_prompt_token_ids:
        for output, passage in zip(outputs, passages, strict=True):
            output["prompt_token_ids"] = passage.tokens
    return await state.off_loop(as_json, outputs if many else outputs[0])


async def _passages(state: State, asked: EncodeRequest) -> tuple[list[Passage], bool]:
    if (asked.text is None) == (asked.input_ids is None):
        raise BadRequest("give exactly one of text and input_ids", param="text")
    given: Any = asked.text
    if asked.is_cross_encoder_request or (isinstance(given, list) and any(isinstance(one, list) for one in given)):
        return await _pairs(state, given, asked), True
    prompt = prompt_of(pooled.head_of(state), asked.prompt_name)
    if asked.text is None:
        return await pooled.read(state, asked.input_ids, "input_ids", asked)
    return await pooled.read(state, asked.text, "text", asked, prompt)


async def _pairs(state: State, given: Any, asked: EncodeRequest) -> list[Passage]:
    pairs = [given] if isinstance(given, list) and given and isinstance(given[0], str) else given
    if not isinstance(pairs, list) or not 0 < len(pairs) <= pooled.MAX_TEXTS:
        raise BadRequest(f"text should be 1 to {pooled.MAX_TEXTS} pairs of texts", param="text")
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise BadRequest("text should be pairs of texts, or texts", param="text")
    return await pooled.read_pairs(state, [(pair[0], pair[1]) for pair in pairs], ("text", "text"), asked)
