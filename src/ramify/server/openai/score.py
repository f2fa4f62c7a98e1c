"""`/v1/score`: how probable each of a few tokens is after a query and an item. Causal rerankers need it."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ramify.core.errors import BadRequest
from ramify.core.params import SamplingParams
from ramify.engine.ask import MAX_IDS, Ask, check_ids, new_rid
from ramify.engine.generation import Generation
from ramify.engine.pooled import rows_of, softmax
from ramify.server import pooled
from ramify.server.ask import MAX_PROMPTS, tokenize
from ramify.server.feed import collect
from ramify.server.openai.answers import Scores, Usage
from ramify.server.openai.common import in_json
from ramify.server.pooled import PoolingFields
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes
from ramify.text.passages import Passage


class ScoreRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/score`. Each prompt is the query followed by an item, or the other way round. A model that
    generates is asked about `label_token_ids`, a classifier about all its classes.
    """

    label_token_ids: list[int] | None = None
    query: str | list[int] = ""
    items: str | list[str | list[int]]
    apply_softmax: bool = False
    temperature: float = 1.0
    item_first: bool = False
    return_token_logprobs: bool = False
    model: str = "default"


TAKES = Takes(
    ScoreRequest,
    {"user": "requests are not told apart by user"},
    {
        "embed_override_token_id": "embeddings as input",
        "query_embed_overrides": "embeddings as input",
        "item_embed_overrides": "embeddings as input",
        "return_pooled_hidden_states": "hidden states as output",
        "score_extraction_token": "multi-item scoring",
    },
)


async def score(request: Request, state: State, asked: ScoreRequest) -> Response:
    """Probabilities of a few tokens as the next one, after a query and each of some items; of a classifier the logits
    of its classes, or their probabilities with `apply_softmax`.
    """
    state.check_open()
    adapter = state.adapter_in(asked.model)
    if state.resolved.model.head is not None:
        return await _classes(state, asked)
    if asked.label_token_ids is None:
        raise BadRequest("label_token_ids is required", param="label_token_ids", code="missing_required_parameter")
    if not asked.temperature > 0:
        raise BadRequest("temperature should be above 0", param="temperature")
    drawn = {"max_new_tokens": 1, "temperature": asked.temperature, "ignore_eos": True}
    params = SamplingParams.parse(drawn, where="")
    if not 0 < len(asked.label_token_ids) <= MAX_IDS:
        raise BadRequest(f"label_token_ids should be 1 to {MAX_IDS} token ids", param="label_token_ids")
    check_ids(asked.label_token_ids, state.resolved.model.vocab, "label_token_ids")
    rid = new_rid()
    prompts = await _prompts(state, asked)
    asks = [_ask(asked, params, tokens, f"{rid}_{number}", adapter) for number, tokens in enumerate(prompts)]
    generations = await collect(state, asks)
    logprobs = [_labels(generation) for generation in generations]
    answer = Scores(
        model=state.told_as(asked.model),
        scores=[[math.exp(v) for v in (_normal(row) if asked.apply_softmax else row)] for row in logprobs],
        usage=_usage(generations),
    )
    if asked.return_token_logprobs:
        answer.token_logprobs = [[in_json(value) for value in row] for row in logprobs]
    return as_json(answer)


async def _classes(state: State, asked: ScoreRequest) -> Response:
    for field in ("label_token_ids", "return_token_logprobs"):
        if getattr(asked, field):
            raise BadRequest(f"{field} is for models that generate: a classifier scores its classes", param=field)
    fields = PoolingFields(model=asked.model)
    passages = [Passage(tokens) for tokens in await _prompts(state, asked)]
    generations = await pooled.pool(state, passages, True, fields)
    rows = [rows_of(generation, pooled.head_of(state))[0].tolist() for generation in generations]
    scores = [softmax(row) for row in rows] if asked.apply_softmax else rows
    return as_json(Scores(model=state.told_as(asked.model), scores=scores, usage=_usage(generations)))


async def _prompts(state: State, asked: ScoreRequest) -> list[list[int]]:
    """Texts are joined as texts, so that what is written together is tokenized together."""
    items = [asked.items] if isinstance(asked.items, str) else asked.items
    if not 0 < len(items) <= MAX_PROMPTS:
        raise BadRequest(f"items should be 1 to {MAX_PROMPTS} texts or lists of token ids", param="items")
    kind = str if isinstance(asked.query, str) else list
    if not all(isinstance(item, kind) for item in items):
        raise BadRequest("query and items should all be texts, or all be token ids", param="items")
    query: Any = asked.query
    joined: list[Any] = [item + query if asked.item_first else query + item for item in items]
    return await tokenize(state, joined) if kind is str else joined


def _ask(asked: ScoreRequest, params: SamplingParams, tokens: list[int], rid: str, adapter: str) -> Ask:
    """One token is drawn and thrown away; what it was drawn from is wanted."""
    return Ask(
        tokens=tokens,
        params=params,
        rid=rid,
        return_logprob=True,
        token_ids_logprob=asked.label_token_ids or (),
        arrived=time.monotonic(),
        adapter=adapter,
    )


def _labels(generation: Generation) -> list[float]:
    assert generation.output_logprobs is not None
    return list(generation.output_logprobs.id_values[0])


def _normal(logprobs: list[float]) -> list[float]:
    """Normalized over the labels alone."""
    best = max(logprobs)
    total = best + math.log(sum(math.exp(value - best) for value in logprobs))
    return [value - total for value in logprobs]


def _usage(generations: list[Generation]) -> Usage:
    """The tokens that were drawn are nobody's."""
    prompt = sum(generation.prompt_tokens for generation in generations)
    return Usage(prompt_tokens=prompt, completion_tokens=0, total_tokens=prompt)
