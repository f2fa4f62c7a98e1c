"""What the OpenAI routes answer, as types: they are encoded from these and described by them in the OpenAPI document.

Field names and order are OpenAI's, with SGLang's extensions (`matched_stop`, `reasoning_content`, `metadata`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]
Matched = int | str | list[int] | None


class CachedTokens(msgspec.Struct):
    """Prompt tokens that came from the prefix cache."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct):
    """Of the generated tokens, those spent on reasoning."""

    reasoning_tokens: int


class Usage(msgspec.Struct, kw_only=True):
    """Tokens; a prompt counts once, whatever the number of its choices."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: CachedTokens | None = None
    reasoning_tokens: int = 0
    completion_tokens_details: CompletionDetails | None = None


class Metadata(msgspec.Struct):
    weight_version: str


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """One token of an answer, and the most probable ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[TokenLogprob]
    refusal: list[TokenLogprob] | None = None


class TextLogprobs(msgspec.Struct):
    """Four lists with an entry per token; `text_offset` counts characters from where the text begins."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CalledFunction(msgspec.Struct, kw_only=True):
    """`arguments` is JSON, as text; in a stream a piece of it, the name being in the first."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ToolCallDelta(msgspec.Struct, kw_only=True):
    """The first piece of a call has its id and name, the others a piece of its arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: CalledFunction


class Message(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None


class Delta(msgspec.Struct, kw_only=True):
    """What is new; keys without news are absent."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    hidden_states: Any = UNSET


class CachedTokensDetails(msgspec.Struct, kw_only=True):
    """Where cached prompt tokens were."""

    device: int
    host: int = 0


class SglExt(msgspec.Struct, kw_only=True):
    """SGLang's `sglext`: extras that were asked for."""

    cached_tokens_details: CachedTokensDetails | UnsetType = UNSET
    input_ids: list[int] | UnsetType = UNSET
    output_ids: list[list[int]] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, kw_only=True):
    index: int
    message: Message
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    matched_stop: Matched = None
    prompt_token_ids: list[int] | UnsetType = UNSET
    response_token_ids: list[int] | UnsetType = UNSET
    meta_info: dict[str, Any] | UnsetType = UNSET
    hidden_states: Any = UNSET


class ChatCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    metadata: Metadata
    sglext: SglExt | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    matched_stop: Matched = None
    prompt_token_ids: list[int] | UnsetType = UNSET
    response_token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    sglext: SglExt | UnsetType = UNSET


class TextChoice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    matched_stop: Matched = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    hidden_states: Any = UNSET


class TextCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    metadata: Metadata
    sglext: SglExt | UnsetType = UNSET


class TextChunk(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    sglext: SglExt | UnsetType = UNSET


class ModelStatus(msgspec.Struct):
    """Whether the model's engine is there; `failed` if it could not be started, or ended by itself."""

    value: Literal["loaded", "loading", "unloaded"]
    failed: bool | UnsetType = UNSET


class ModelCard(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ramify"
    root: str
    parent: str | None = None
    max_model_len: int
    status: ModelStatus | UnsetType = UNSET


class ModelList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(msgspec.Struct):
    tokens: list[int | list[int]]
    count: int | list[int]
    max_model_len: int


class Text(msgspec.Struct):
    """`prompt` is the text again, by vLLM's name for it."""

    text: str | list[str]
    prompt: str | list[str]


class TokenizerInfo(msgspec.Struct, kw_only=True):
    """As vLLM tells it; a token that the model does not have is null."""

    bos_token: str | None = None
    eos_token: str | None = None
    unk_token: str | None = None
    pad_token: str | None = None
    sep_token: str | None = None
    cls_token: str | None = None
    mask_token: str | None = None
    chat_template: str | None = None


class Scores(msgspec.Struct, kw_only=True):
    """A row of label probabilities for each item."""

    object: Literal["scoring"] = "scoring"
    model: str
    scores: list[list[float]]
    usage: Usage
    token_logprobs: list[list[float]] | UnsetType = UNSET


class PromptUsage(msgspec.Struct):
    """Tokens read, where none are written."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, kw_only=True):
    """Numbers, or in base64 their bytes: float32, little-endian."""

    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str
    index: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: PromptUsage


class ClassData(msgspec.Struct, kw_only=True):
    """The most probable class, and the probabilities of all."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassList(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ClassData]
    usage: PromptUsage


class Ranked(msgspec.Struct, kw_only=True):
    """A document by its place in the request; the best comes first."""

    score: float
    document: str | None
    index: int
    meta_info: dict[str, Any]


class Problem(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | int | None


class Failure(msgspec.Struct):
    """Every error of an OpenAI route."""

    error: Problem
