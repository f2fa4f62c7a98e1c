"""`/v1/tokenize` and `/v1/detokenize`: what a text or a conversation is to the model."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ramify.core.errors import BadRequest
from ramify.engine.ask import check_ids
from ramify.server.ask import split_prompts, tokenize
from ramify.server.openai.answers import Text, TokenizerInfo, Tokens
from ramify.server.openai.conversation import MESSAGES, TOOLS, Reasoning, Thinking, encode, read_tools
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/tokenize`: one text, several, or a conversation."""

    model: str = "default"
    prompt: str | list[str] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    thinking: bool | Thinking | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/detokenize`: the tokens of one text, or of several."""

    tokens: list[int | list[int]]
    model: str = "default"
    skip_special_tokens: bool = True


TOKENIZE = Takes(TokenizeRequest, parts={"messages": MESSAGES | None, "tools": TOOLS | None})
DETOKENIZE = Takes(DetokenizeRequest)


async def tokenize_text(request: Request, state: State, asked: TokenizeRequest) -> Response:
    """Token ids of one text, of several, or of a conversation."""
    state.check_model(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise BadRequest("give exactly one of prompt and messages", param="prompt")
    if asked.messages is not None:
        read_tools(asked.tools)
        begins = asked.add_generation_prompt is not False
        _, tokens = await encode(state, asked, begins)  # type: ignore[arg-type]  # messages are there
        return _tokens(state, tokens, len(tokens))
    if asked.prompt == "":
        raise BadRequest("the prompt is empty", param="prompt")
    prompts, many = split_prompts(asked.prompt, "prompt")
    found = await tokenize(state, prompts, asked.add_special_tokens)
    if many:
        return _tokens(state, found, [len(tokens) for tokens in found])
    return _tokens(state, found[0], len(found[0]))


def _tokens(state: State, tokens: list[Any], count: int | list[int]) -> Response:
    return as_json(Tokens(tokens, count, state.resolved.context))


async def detokenize_text(request: Request, state: State, asked: DetokenizeRequest) -> Response:
    """The text of token ids."""
    state.check_model(asked.model)
    lists, many = split_prompts(asked.tokens, "tokens")
    for tokens in lists:
        check_ids(tokens, max(state.resolved.model.vocab, state.words().size), "tokens")  # an adapter may have more
    words = state.words()
    texts = [await state.off_loop(words.decode, tokens, asked.skip_special_tokens) for tokens in lists]
    text = texts if many else texts[0]
    return as_json(Text(text, text))


async def tokenizer_info(request: Request, state: State, _: None) -> Response:
    """Show the special tokens and the chat template, by which clients without the tokenizer's files work."""
    words = state.words()
    return as_json(TokenizerInfo(**words.names, chat_template=words.chat_template))
