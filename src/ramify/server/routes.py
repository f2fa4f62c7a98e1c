"""The route table, as data: method, path, who may call it, the shape of its errors, its handler.

Classes of auth: `open` needs nothing, `user` the API key, `admin` the admin key. A test fails when a route has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from ramify.server import admin, health, native
from ramify.server.openai import chat, completions, models
from ramify.server.state import State

Auth = Literal["open", "user", "admin"]
Handler = Callable[[Request, State, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """`body`: the request has a JSON object as its body; without one, the handler gets an empty dict.

    `openai`: errors are nested as OpenAI's. `optional_body`: a body may be missing.
    """

    methods: tuple[str, ...]
    path: str
    auth: Auth
    handler: Handler
    openai: bool = False
    body: bool = False
    optional_body: bool = False


def _post(path: str, auth: Auth, handler: Handler, **more: Any) -> Route:
    return Route(("POST",), path, auth, handler, body=True, **more)


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
    _post("/v1/completions", "user", completions.create, openai=True),
    _post("/v1/chat/completions", "user", chat.create, openai=True),
    Route(("POST", "PUT"), "/generate", "user", native.generate, body=True),
    _get("/model_info", "user", native.model_info),
    _get("/get_model_info", "user", native.model_info),
    _get("/server_info", "user", native.server_info),
    _get("/get_server_info", "user", native.server_info),
    Route(("GET", "POST"), "/flush_cache", "admin", admin.flush_cache),
    _post("/abort_request", "user", admin.abort_request),
)
