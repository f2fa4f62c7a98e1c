"""What the routes of models with a head have in common: texts read, computed, and answered in their order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ramify.config.head import Head
from ramify.core.errors import BadRequest
from ramify.engine.ask import BILLION, Ask, check_task, pooling_of
from ramify.engine.generation import Generation
from ramify.engine.pooled import check_amount
from ramify.server.ask import MAX_TOKEN_CHARACTERS, check_text, request_ids, routes_of, split_prompts
from ramify.server.feed import collect
from ramify.server.state import State
from ramify.text.passages import Passage

MAX_TEXTS = 2048  # OpenAI's limit
MAX_TOKENS = 1 << 22  # of one request, over all its texts

Texts = str | list[str | int | list[int]]  # one text, its token ids, or several of either


class PoolingFields(msgspec.Struct, kw_only=True):
    """Fields that all these routes take. Lists of ids and keys have one for each text."""

    model: str = "default"
    rid: str | list[str] | None = None
    priority: int | list[int | None] | None = None
    extra_key: str | list[str | None] | None = None
    cache_salt: str | list[str | None] | None = None
    lora_path: str | list[str | None] | None = None
    deterministic: bool = False
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=BILLION)] | None = None


NO_EFFECT = {"user": "requests are not told apart by user"}
REFUSED = {
    "embed_override_token_id": "embeddings as input",
    "embed_overrides": "embeddings as input",
}


def head_of(state: State) -> Head:
    """The model's head; raises for a model without."""
    head = state.resolved.model.head
    check_task(head, pools=True)
    assert head is not None
    return head


def longest_of(state: State, asked: PoolingFields) -> int | None:
    """Tokens to which a text is cut; None: it is not, and refused where it is too long. -1 stands for the context."""
    context = state.resolved.context
    if asked.truncate_prompt_tokens is None:
        return context if state.resolved.settings.server.allow_auto_truncate else None
    if asked.truncate_prompt_tokens == 0:
        raise BadRequest("truncate_prompt_tokens should be -1 or at least 1", param="truncate_prompt_tokens")
    return context if asked.truncate_prompt_tokens == -1 else min(asked.truncate_prompt_tokens, context)


async def read(
    state: State, given: Any, field: str, asked: PoolingFields, prompt: str = ""
) -> tuple[list[Passage], bool]:
    """Texts or token ids, one or a list, and whether there was a list."""
    prompts, many = split_prompts(given, field, MAX_TEXTS)
    longest = longest_of(state, asked)
    if isinstance(prompts[0], list):
        return [Passage(tokens[:longest]) for tokens in prompts], many
    texts = [fitting(state, text, f"{field}[{at}]" if many else field, longest) for at, text in enumerate(prompts)]
    return await state.off_loop(state.passages().read, texts, prompt, longest), many


async def read_pairs(
    state: State, pairs: Sequence[tuple[str, str]], fields: tuple[str, str], asked: PoolingFields
) -> list[Passage]:
    """Two texts in one, as cross-encoders read them."""
    longest = longest_of(state, asked)
    fit = [
        (fitting(state, first, fields[0], longest), fitting(state, second, fields[1], longest))
        for first, second in pairs
    ]
    return await state.off_loop(state.passages().read_pairs, fit, longest)


def fitting(state: State, text: str, field: str, longest: int | None) -> str:
    """Text that is worth tokenizing: some, Unicode, and no more than could be read of it."""
    if not text:
        raise BadRequest(f"{field} is an empty text", param=field)
    if longest is None:
        return check_text(text, state.resolved.context)
    return check_text(text[: longest * MAX_TOKEN_CHARACTERS], state.resolved.context)


async def pool(state: State, passages: Sequence[Passage], many: bool, asked: PoolingFields) -> list[Generation]:
    """What the head gives for each, in order."""
    head, count = head_of(state), len(passages)
    check_amount(head, count)
    if sum(len(passage.tokens) for passage in passages) > MAX_TOKENS:
        raise BadRequest(f"the texts of one request have more than {MAX_TOKENS} tokens together")
    routes = routes_of(state, asked, count, asked.model)
    now = time.monotonic()
    asks = [
        Ask(tokens=p.tokens, pooling=pooling_of(head, p.second, p.skip), rid=rid, arrived=now, **route)
        for p, rid, route in zip(passages, request_ids(asked.rid, count, many), routes, strict=True)
    ]
    return await collect(state, asks)


def tokens_of(generations: Sequence[Generation]) -> int:
    return sum(generation.prompt_tokens for generation in generations)
