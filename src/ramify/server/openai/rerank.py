"""`/v1/rerank`: documents by how well they answer a query.

a cross-encoder                  reads query and document together and gives a logit
an embedding model               reads them apart; what counts is the angle between their vectors
a generating reranker            is asked for yes or no by its chat template; what counts is the probability of yes
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from ramify.config.head import Head
from ramify.core.errors import BadRequest
from ramify.core.params import SamplingParams
from ramify.engine.ask import BILLION, Ask
from ramify.engine.generation import Generation
from ramify.engine.outputs import Shape
from ramify.engine.pooled import embedding_of, prompt_of, relevance, rows_of, softmax
from ramify.server import pooled
from ramify.server.ask import request_ids, routes_of
from ramify.server.feed import collect
from ramify.server.openai.answers import Ranked
from ramify.server.openai.judge import Judge, judges
from ramify.server.pooled import PoolingFields
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes

MAX_DOCUMENTS = 1024
NO_JUDGE = (
    "This model generates, and its chat template does not judge documents. Serve a reranker, or this one with "
    "--chat-template qwen3-reranker if that is how it was trained."
)
Scored = list[tuple[float, Generation]]


class Document(msgspec.Struct, kw_only=True):
    """A document by its text, as some clients have it."""

    text: str


class RerankRequest(PoolingFields, kw_only=True):
    """The body of `/v1/rerank`. `instruct` tells a generating reranker what to look for; `top_n` is how many of the
    best are told of.
    """

    query: str
    documents: list[str | Document]
    instruct: str | None = None
    top_n: Annotated[int, Meta(ge=1, le=BILLION)] | None = None
    return_documents: bool = True


TAKES = Takes(RerankRequest, pooled.NO_EFFECT)


async def create(request: Request, state: State, asked: RerankRequest) -> Response:
    """Put documents in order, the best first."""
    state.check_open()
    state.check_model(asked.model)
    if not 0 < len(asked.documents) <= MAX_DOCUMENTS:
        raise BadRequest(f"documents should be 1 to {MAX_DOCUMENTS} texts", param="documents")
    texts = [document if isinstance(document, str) else document.text for document in asked.documents]
    head = state.resolved.model.head
    if head is None:
        scored = await _by_judgement(state, asked, texts)
    elif asked.instruct:
        raise BadRequest("instruct is for generating rerankers: this model takes no instruction", param="instruct")
    elif head.task == "embed":
        scored = await _by_angle(state, head, asked, texts)
    else:
        scored = await _by_pairs(state, head, asked, texts)
    return as_json(_ranked(state, asked, texts, scored))


def _ranked(state: State, asked: RerankRequest, texts: list[str], scored: Scored) -> list[Ranked]:
    """Of documents that are as good the first comes first."""
    order = sorted(range(len(scored)), key=lambda at: -scored[at][0])[: asked.top_n]
    shape = Shape(state.tokenizer, state.resolved.settings.model.weight_version)
    return [
        Ranked(
            score=scored[at][0],
            document=texts[at] if asked.return_documents else None,
            index=at,
            meta_info=shape.meta(scored[at][1], 0, 0),
        )
        for at in order
    ]


async def _by_pairs(state: State, head: Head, asked: RerankRequest, texts: list[str]) -> Scored:
    pairs = [(asked.query, text) for text in texts]
    passages = await pooled.read_pairs(state, pairs, ("query", "documents"), asked)
    generations = await pooled.pool(state, passages, True, asked)
    return [(relevance(rows_of(one, head)[-1].tolist(), head), one) for one in generations]


async def _by_angle(state: State, head: Head, asked: RerankRequest, texts: list[str]) -> Scored:
    """With the model's prompts for queries and documents, where it has such."""
    of_query, of_document = (prompt_of(head, name if name in head.prompts else None) for name in ("query", "document"))
    query, _ = await pooled.read(state, [asked.query], "query", asked, of_query)
    documents, _ = await pooled.read(state, texts, "documents", asked, of_document)
    alike = msgspec.structs.replace(asked, rid=asked.rid if isinstance(asked.rid, str) else None)
    first, *rest = await pooled.pool(state, [*query, *documents], True, alike)
    vector = _unit(embedding_of(first, head))
    return [(float(vector @ _unit(embedding_of(one, head))), one) for one in rest]


def _unit(vector: Any) -> Any:
    return vector.astype(np.float64) / max(float(np.linalg.norm(vector)), 1e-12)


async def _by_judgement(state: State, asked: RerankRequest, texts: list[str]) -> Scored:
    """The next token is drawn and thrown away; what it was drawn from is wanted."""
    if state.template is None or not judges(state.template):
        raise BadRequest(NO_JUDGE, code="model_cannot")
    labels = [state.words().encode(word, add_special_tokens=False)[0] for word in ("yes", "no")]
    prompts = await state.off_loop(_judged, state, asked, texts)
    params = SamplingParams(max_new_tokens=1, temperature=1.0, ignore_eos=True)
    count, now = len(texts), time.monotonic()
    routes = routes_of(state, asked, count, asked.model)
    asks = [
        Ask(tokens=tokens, params=params, rid=rid, return_logprob=True, token_ids_logprob=labels, arrived=now, **route)
        for tokens, rid, route in zip(prompts, request_ids(asked.rid, count, True), routes, strict=True)
    ]
    return [(_yes(generation), generation) for generation in await collect(state, asks)]


def _judged(state: State, asked: RerankRequest, texts: list[str]) -> list[list[int]]:
    assert state.template is not None
    longest = pooled.longest_of(state, asked)
    room = None if longest is None else longest - 1  # one token is drawn
    query = pooled.fitting(state, asked.query, "query", longest)
    documents = [pooled.fitting(state, text, f"documents[{at}]", longest) for at, text in enumerate(texts)]
    judge = Judge(state.template, state.words(), query, asked.instruct, room)
    return [judge.prompt(document) for document in documents]


def _yes(generation: Generation) -> float:
    assert generation.output_logprobs is not None
    return softmax(list(generation.output_logprobs.id_values[0]))[0]
