"""The route table, as data: method, path, who may call it, the shape of its errors, its handler.

Classes of auth: `open` needs nothing, `user` the API key, `admin` the admin key. A test fails when a route has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from ramify.server import admin, health, native
from ramify.server.openai import chat, completions, models, score, tokens
from ramify.server.state import State
from ramify.server.takes import Takes

Auth = Literal["open", "user", "admin"]
Handler = Callable[[Request, State, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """`takes` describes the JSON object that is its body, which the handler gets as a struct; without one it gets None.

    `openai`: errors are nested as OpenAI's.
    """

    methods: tuple[str, ...]
    path: str
    auth: Auth
    handler: Handler
    openai: bool = False
    takes: Takes | None = None


def _post(path: str, auth: Auth, handler: Handler, takes: Takes, **more: Any) -> Route:
    return Route(("POST",), path, auth, handler, takes=takes, **more)


def _get(path: str, auth: Auth, handler: Handler, **more: Any) -> Route:
    return Route(("GET",), path, auth, handler, **more)


ROUTES: tuple[Route, ...] = (
    _get("/", "open", health.hello),
    _get("/health", "open", health.health),
    _get("/ping", "open", health.health),
    _get("/health_generate", "open", health.health_generate),
    _get("/ready", "open", health.ready),
    _get("/metrics", "open", health.metrics),
    _get("/v1/models", "user", models.list_models, openai=True),
    _get("/v1/models/{model}", "user", models.get_model, openai=True),
    _post("/v1/completions", "user", completions.create, completions.TAKES, openai=True),
    _post("/v1/chat/completions", "user", chat.create, chat.TAKES, openai=True),
    _post("/v1/tokenize", "user", tokens.tokenize_text, tokens.TOKENIZE, openai=True),
    _post("/tokenize", "user", tokens.tokenize_text, tokens.TOKENIZE, openai=True),
    _post("/v1/detokenize", "user", tokens.detokenize_text, tokens.DETOKENIZE, openai=True),
    _post("/detokenize", "user", tokens.detokenize_text, tokens.DETOKENIZE, openai=True),
    _post("/v1/score", "user", score.score, score.TAKES, openai=True),
    Route(("POST", "PUT"), "/generate", "user", native.generate, takes=native.TAKES),
    _get("/model_info", "user", native.model_info),
    _get("/get_model_info", "user", native.model_info),
    _get("/server_info", "user", native.server_info),
    _get("/get_server_info", "user", native.server_info),
    Route(("GET", "POST"), "/flush_cache", "admin", admin.flush_cache),
    _post("/abort_request", "user", admin.abort_request, admin.ABORT),
)
