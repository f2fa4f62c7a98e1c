"""What each route is asked and what its stream says: SGLang's `/generate` and OpenAI's two completion routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import msgspec

from ramify.core.errors import RamifyError

T = TypeVar("T")
Content = str | list[int]  # what a user says: text, or token ids on the native route

BETWEEN_TURNS = "\n"
MAX_ERROR = 500  # characters of a server's error text


class Failed(RamifyError):
    """A request that was not served, in the server's words where it had any."""


class News(Enum):
    """What an event of a stream means for the clock."""

    NOTHING = 0
    END = 1  # of the answer, without new content
    CONTENT = 2


@dataclass(slots=True)
class Answer:
    """Collected from a stream. Counts are None where the server does not say."""

    pieces: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    finish: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True)
class Asking:
    """What all requests of a run have in common. `extra` is merged into every body."""

    model: str
    temperature: float = 0.0
    ignore_eos: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


Said = tuple[Content, Answer]  # an earlier turn: the user's words and the answer
MakeBody = Callable[[Asking, Sequence[Said], Content, int], dict[str, Any]]
Read = Callable[[Answer, bytes], News]


@dataclass(frozen=True)
class Backend:
    """`body` makes a request from earlier turns, new content and the number of tokens wanted; `read` takes the data of
    one event into an `Answer` and raises `Failed` where it is an error. `adds_template`: the server puts more tokens
    around the content than its tokenizer does.
    """

    name: str
    path: str
    takes_ids: bool
    adds_template: bool
    body: MakeBody
    read: Read

    def request(self, asking: Asking, history: Sequence[Said], content: Content, length: int) -> bytes:
        """The body as JSON; `extra` goes into objects that are there already, one level deep."""
        body = self.body(asking, history, content, length)
        for key, value in asking.extra.items():
            inner = body.get(key)
            body[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
        return msgspec.json.encode(body)


# -- what is sent ------------------------------------------------------------------------------------------------------


def joined(history: Sequence[Said], content: Content) -> Content:
    """A conversation as one prompt."""
    if isinstance(content, str):
        said = [part for words, answer in history for part in (str(words), answer.text + BETWEEN_TURNS)]
        return "".join([*said, content])
    return [token for words, answer in history for token in (*_ids(words), *answer.ids)] + content


def _ids(words: Content) -> list[int]:
    assert not isinstance(words, str), "a conversation is all text or all ids"
    return words


def native_body(asking: Asking, history: Sequence[Said], content: Content, length: int) -> dict[str, Any]:
    params = {"temperature": asking.temperature, "max_new_tokens": length, "ignore_eos": asking.ignore_eos}
    prompt = joined(history, content)
    return {"text" if isinstance(prompt, str) else "input_ids": prompt, "sampling_params": params, "stream": True}


def completion_body(asking: Asking, history: Sequence[Said], content: Content, length: int) -> dict[str, Any]:
    return _openai(asking) | {"prompt": joined(history, content), "max_tokens": length}


def chat_body(asking: Asking, history: Sequence[Said], content: Content, length: int) -> dict[str, Any]:
    messages = [
        {"role": role, "content": text}
        for words, answer in history
        for role, text in (("user", words), ("assistant", answer.text))
    ]
    messages.append({"role": "user", "content": content})
    return _openai(asking) | {"messages": messages, "max_completion_tokens": length}


def _openai(asking: Asking) -> dict[str, Any]:
    body: dict[str, Any] = {"model": asking.model, "temperature": asking.temperature, "stream": True}
    body["stream_options"] = {"include_usage": True}
    return body | {"ignore_eos": True} if asking.ignore_eos else body  # OpenAI's own servers refuse unknown fields


# -- what comes back ---------------------------------------------------------------------------------------------------


class _Meta(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: dict[str, Any] | str | None = None


class _Generated(msgspec.Struct):
    text: str | None = None
    output_ids: list[int] | None = None
    meta_info: _Meta | None = None
    error: Any = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


_generated = msgspec.json.Decoder(_Generated)
_chunk = msgspec.json.Decoder(_Chunk)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError) as e:
        raise Failed(f"an event that cannot be read ({e}): {data[:80]!r}") from None


def read_native(answer: Answer, data: bytes) -> News:
    """Text and ids come whole in every event, or with --incremental-streaming-output as what is new."""
    event = _decoded(_generated, data)
    if event.error is not None:
        raise Failed(error_text(event.error))
    meta, before = event.meta_info or _Meta(), answer.output_tokens or 0
    _generate(answer, event, meta.completion_tokens or 0)
    _count(answer, meta.prompt_tokens, meta.completion_tokens, meta.cached_tokens)
    if meta.finish_reason is not None:
        answer.finish = _finish(meta.finish_reason)
    counts = meta.completion_tokens is not None
    if (answer.output_tokens or 0) > before or (not counts and event.text):
        return News.CONTENT
    return News.END if meta.finish_reason is not None else News.NOTHING


def _generate(answer: Answer, event: _Generated, tokens: int) -> None:
    """Keep what an event has, of an answer of so many `tokens` by now. An event without ids is whole if its text is."""
    ids, text = event.output_ids, event.text or ""
    whole = len(ids) >= tokens if ids is not None else text.startswith(answer.text)
    if text:
        answer.pieces = [text] if whole else [*answer.pieces, text]
    answer.ids = (ids or []) if whole else [*answer.ids, *(ids or [])]


def read_openai(answer: Answer, data: bytes) -> News:
    """Chunks of either completion route."""
    chunk = _decoded(_chunk, data)
    if chunk.error is not None or chunk.object == "error":
        raise Failed(error_text(chunk.error if chunk.error is not None else chunk.message))
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details or _Details()
        _count(answer, chunk.usage.prompt_tokens, chunk.usage.completion_tokens, details.cached_tokens)
    news = News.NOTHING
    for choice in chunk.choices or ():
        if _said(answer, choice):
            news = News.CONTENT
        if choice.finish_reason is not None:
            answer.finish = _finish(choice.finish_reason)
            news = News.CONTENT if news is News.CONTENT else News.END
    return news


def _said(answer: Answer, choice: _Choice) -> bool:
    """Whether a chunk has content of any kind; what it has of text is kept."""
    delta = choice.delta or _Delta()
    text = choice.text or delta.content
    if text:
        answer.pieces.append(text)
    return bool(text or delta.reasoning_content or delta.reasoning or delta.tool_calls)


def _count(answer: Answer, prompt: int | None, output: int | None, cached: int | None) -> None:
    answer.prompt_tokens = prompt if prompt is not None else answer.prompt_tokens
    answer.output_tokens = output if output is not None else answer.output_tokens
    answer.cached_tokens = cached if cached is not None else answer.cached_tokens


def _finish(reason: dict[str, Any] | str) -> str:
    """Its name; an answer that was broken off is no answer."""
    kind = str(reason.get("type")) if isinstance(reason, dict) else reason
    if kind in ("abort", "error"):
        message = reason.get("message") if isinstance(reason, dict) else None
        raise Failed(f"the server broke the answer off: {message or kind}"[:MAX_ERROR])
    return kind


def error_text(error: Any) -> str:
    """The words in an error of any shape in use: OpenAI's, SGLang's, or a plain text."""
    for key in ("error", "message", "detail"):
        if isinstance(error, dict) and error.get(key):
            return error_text(error[key])
    return str(error).strip()[:MAX_ERROR] or "an error without words"


NATIVE = Backend("native", "/generate", True, False, native_body, read_native)
COMPLETIONS = Backend("openai", "/v1/completions", False, False, completion_body, read_openai)
CHAT = Backend("openai-chat", "/v1/chat/completions", False, True, chat_body, read_openai)

BACKENDS = {
    "native": NATIVE,
    "openai": COMPLETIONS,
    "openai-chat": CHAT,
    "sglang": NATIVE,
    "sglang-native": NATIVE,
    "sglang-oai": COMPLETIONS,
    "sglang-oai-chat": CHAT,
    "vllm": COMPLETIONS,
    "vllm-chat": CHAT,
    "lmdeploy": COMPLETIONS,
    "lmdeploy-chat": CHAT,
}
