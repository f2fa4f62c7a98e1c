"""The route table, as data: method, path, who may call it, the shape of its errors, its handler.

Classes of auth: `open` needs nothing, `user` the API key, `admin` the admin key. A test fails when a route has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request

from ramify.server import adapters, admin, controls, encode, health, loads, native, openapi, parsing, sessions
from ramify.server.openai import (
    answers,
    chat,
    classify,
    completions,
    embeddings,
    models,
    rerank,
    score,
    tokens,
)
from ramify.server.state import State
from ramify.server.takes import Takes

Auth = Literal["open", "user", "admin"]
Task = Literal["generate", "embed", "classify", "reward"]
TASKS: tuple[Task, ...] = ("generate", "embed", "classify", "reward")
POOLED: tuple[Task, ...] = ("embed", "classify", "reward")
Handler = Callable[[Request, State, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """`takes` describes the JSON object that is its body, which the handler gets as a struct; without one it gets None.

    `gives` is the type of its answer, `text` the media type of an answer that is not JSON, `streams` the type of an
    event where the answer can be a stream, `query` the JSON types of query parameters, `names` what fields are
    called here that have other names in the engine, `tasks` what the model has to be served for. `openai`: errors are
    nested as OpenAI's. Every body is limited by --max-body-mib, every list in it where it is read.
    """

    methods: tuple[str, ...]
    path: str
    auth: Auth
    handler: Handler
    openai: bool = False
    takes: Takes | None = None
    gives: Any = None
    streams: Any = None
    text: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[Task, ...] = TASKS
    names: Mapping[str, str] = field(default_factory=dict)


def _post(path: str, auth: Auth, handler: Handler, takes: Takes, gives: Any = None, **more: Any) -> Route:
    return Route(("POST",), path, auth, handler, takes=takes, gives=gives, **more)


def _get(path: str, auth: Auth, handler: Handler, gives: Any = None, **more: Any) -> Route:
    return Route(("GET",), path, auth, handler, gives=gives, **more)


def _both(path: str, auth: Auth, handler: Handler, takes: Takes | None = None, gives: Any = None, **more: Any) -> Route:
    """By GET as well, which clients of SGLang use for some orders."""
    return Route(("GET", "POST"), path, auth, handler, takes=takes, gives=gives, **more)


PLAIN = "text/plain"
LOADS = {"include": "string", "format": "string", "dp_rank": "integer"}
WRITES: dict[str, Any] = {"tasks": ("generate",)}
CHAT: dict[str, Any] = {**WRITES, "gives": answers.ChatCompletion, "streams": answers.ChatChunk, "names": chat.NAMES}
TEXT: dict[str, Any] = {
    **WRITES,
    "gives": answers.TextCompletion,
    "streams": answers.TextChunk,
    "names": completions.NAMES,
}
GENERATED: dict[str, Any] = {**WRITES, "gives": native.Generated | list[native.Generated], "streams": native.Generated}
ENCODED: dict[str, Any] = {"gives": encode.Encoded | list[encode.Encoded], "tasks": POOLED}
INPUT: dict[str, Any] = {"openai": True, "names": {"input_ids": "input"}}
EMBEDS: dict[str, Any] = {**INPUT, "gives": answers.EmbeddingList, "tasks": ("embed",)}
CLASSIFIES: dict[str, Any] = {**INPUT, "gives": answers.ClassList, "tasks": ("classify",)}

ROUTES: tuple[Route, ...] = (
    _get("/", "open", health.hello, text=PLAIN),
    _get("/health", "open", health.health),
    _get("/ping", "open", health.health),
    _get("/health_generate", "open", health.health_generate),
    _get("/ready", "open", health.ready),
    _get("/metrics", "open", health.metrics, text=PLAIN),
    _get("/openapi.json", "open", openapi.openapi, dict[str, Any]),
    _get("/docs", "open", openapi.docs, text="text/html"),
    _get("/v1/models", "user", models.list_models, answers.ModelList, openai=True),
    _get("/v1/models/{model}", "user", models.get_model, answers.ModelCard, openai=True),
    _post("/v1/completions", "user", completions.create, completions.TAKES, openai=True, **TEXT),
    _post("/v1/chat/completions", "user", chat.create, chat.TAKES, openai=True, **CHAT),
    _post("/v1/embeddings", "user", embeddings.create, embeddings.TAKES, **EMBEDS),
    _post("/v1/classify", "user", classify.create, classify.TAKES, **CLASSIFIES),
    _post("/v1/rerank", "user", rerank.create, rerank.TAKES, list[answers.Ranked], openai=True),
    _post("/v1/tokenize", "user", tokens.tokenize_text, tokens.TOKENIZE, answers.Tokens, openai=True),
    _post("/tokenize", "user", tokens.tokenize_text, tokens.TOKENIZE, answers.Tokens, openai=True),
    _post("/v1/detokenize", "user", tokens.detokenize_text, tokens.DETOKENIZE, answers.Text, openai=True),
    _post("/detokenize", "user", tokens.detokenize_text, tokens.DETOKENIZE, answers.Text, openai=True),
    _get("/tokenizer_info", "user", tokens.tokenizer_info, answers.TokenizerInfo),
    _post("/v1/score", "user", score.score, score.TAKES, answers.Scores, openai=True, tasks=("generate", "classify")),
    Route(("POST", "PUT"), "/generate", "user", native.generate, takes=native.TAKES, **GENERATED),
    Route(("POST", "PUT"), "/encode", "user", encode.encode, takes=encode.TAKES, **ENCODED),
    Route(("POST", "PUT"), "/classify", "user", encode.encode, takes=encode.TAKES, **ENCODED),
    _post("/parse_function_call", "user", parsing.parse_function_call, parsing.CALLS, parsing.Calls),
    _post("/separate_reasoning", "user", parsing.separate_reasoning, parsing.REASONING, parsing.Separated),
    _get("/model_info", "user", native.model_info, dict[str, Any]),
    _get("/get_model_info", "user", native.model_info, dict[str, Any]),
    _get("/server_info", "user", native.server_info, dict[str, Any]),
    _get("/get_server_info", "user", native.server_info, dict[str, Any]),
    Route(("GET", "POST"), "/flush_cache", "admin", admin.flush_cache, text=PLAIN, query={"timeout": "number"}),
    _post("/abort_request", "user", admin.abort_request, admin.ABORT),
    _both("/open_session", "user", sessions.open_session, sessions.OPEN, str),
    _both("/close_session", "user", sessions.close_session, sessions.CLOSE),
    _get("/v1/loads", "user", loads.loads, loads.Loads, openai=True, query=LOADS),
    _post("/load_lora_adapter", "admin", adapters.load, adapters.LOAD, adapters.Loaded),
    _post(
        "/load_lora_adapter_from_tensors",
        "admin",
        adapters.load_from_tensors,
        adapters.FROM_TENSORS,
        adapters.Loaded,
    ),
    _post("/unload_lora_adapter", "admin", adapters.unload, adapters.UNLOAD, adapters.Loaded),
    _post("/v1/load_lora_adapter", "admin", adapters.load_as_vllm, adapters.LOAD_AS_VLLM, openai=True, text=PLAIN),
    _post(
        "/v1/unload_lora_adapter", "admin", adapters.unload_as_vllm, adapters.UNLOAD_AS_VLLM, openai=True, text=PLAIN
    ),
    _post("/pause_generation", "admin", controls.pause_generation, controls.PAUSE, controls.Done),
    _post("/continue_generation", "admin", controls.continue_generation, controls.CONTINUE, controls.Done),
    _both("/start_profile", "admin", controls.start_profile, controls.PROFILE, text=PLAIN),
    _both("/stop_profile", "admin", controls.stop_profile, text=PLAIN),
    _post("/configure_logging", "admin", controls.configure_logging, controls.LOGGING),
    _post("/slow_down", "admin", controls.slow_down, controls.SLOW),
    _post("/freeze_gc", "admin", controls.freeze_gc, controls.FREEZE, text=PLAIN),
    _post("/set_internal_state", "admin", controls.set_internal_state, controls.INTERNAL),
)
