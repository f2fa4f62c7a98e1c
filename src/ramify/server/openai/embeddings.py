"""`/v1/embeddings`: texts as vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from ramify.engine.generation import Generation
from ramify.engine.pooled import UNTRAINED, check_dimensions, embedding_of, prompt_of
from ramify.server import pooled
from ramify.server.openai.answers import Embedding, EmbeddingList, PromptUsage
from ramify.server.pooled import PoolingFields, Texts
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes, warn


class EmbeddingRequest(PoolingFields, kw_only=True):
    """The body of `/v1/embeddings`. `prompt_name` is one of the model's own prompts, which stands before every text;
    `truncate_prompt_tokens` cuts longer texts, to the context where it is -1.
    """

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    prompt_name: str | None = None


TAKES = Takes(EmbeddingRequest, pooled.NO_EFFECT, pooled.REFUSED)


async def create(request: Request, state: State, asked: EmbeddingRequest) -> Response:
    """Embed texts or token ids, one or several."""
    state.check_open()
    state.check_model(asked.model)
    head = pooled.head_of(state)
    check_dimensions(head, asked.dimensions)
    if asked.dimensions is not None and not head.dimensions:
        warn(state, request, UNTRAINED)
    passages, many = await pooled.read(state, asked.input, "input", asked, prompt_of(head, asked.prompt_name))
    generations = await pooled.pool(state, passages, many, asked)
    return await state.off_loop(_answer, state, asked, generations)


def _answer(state: State, asked: EmbeddingRequest, generations: Sequence[Generation]) -> Response:
    """Thousands of vectors take a while to spell."""
    count = pooled.tokens_of(generations)
    data = [Embedding(index=at, embedding=_spelled(state, asked, one)) for at, one in enumerate(generations)]
    return as_json(EmbeddingList(data=data, model=state.told_as(asked.model), usage=PromptUsage(count, count)))


def _spelled(state: State, asked: EmbeddingRequest, generation: Generation) -> list[float] | str:
    """Numbers, or their bytes: float32, little-endian."""
    vector = embedding_of(generation, pooled.head_of(state), asked.dimensions)
    if asked.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
