"""Errors in the shape of their route."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from ramify.core.errors import (
    BadRequest,
    EngineDead,
    Forbidden,
    InternalError,
    Overloaded,
    Unauthorized,
    UserError,
    WrongMethod,
)

PATH = re.compile(r"(?<![\w.:/])/([\w.\-]+)(?:/[\w.\-]+)+")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def scrub(message: str) -> str:
    """Without addresses and absolute paths of this machine, which are nobody else's business."""

    def hide(found: re.Match[str]) -> str:
        return "<path>" if os.path.isdir(f"/{found[1]}") else found[0]  # a route is no path

    return PATH.sub(hide, ADDRESS.sub("", message))[:4000]


def openai_error(error: UserError) -> dict[str, Any]:
    """As OpenAI nests it."""
    message, code = scrub(error.message), error.code
    return {"error": {"message": message, "type": error.kind, "param": error.param, "code": code}}


def native_error(error: UserError) -> dict[str, Any]:
    """As SGLang's native routes have it."""
    if isinstance(error, Unauthorized | Forbidden):
        return {"error": "Unauthorized" if isinstance(error, Unauthorized) else "Forbidden"}
    if error.code == "unknown_parameter":
        return {"error": scrub(error.message)}  # SGLang answers a broken contract with a bare string
    return {"error": {"message": scrub(error.message)}}


def stream_error(error: UserError) -> dict[str, Any]:
    """After the first byte, on any route: what clients of both kinds read."""
    body = openai_error(error)
    body["error"]["code"] = error.status
    body["error"]["retryable"] = error.status >= 500
    return body


def respond(error: UserError, openai: bool) -> Response:
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    if isinstance(error, EngineDead):
        headers["retry-after"] = "10"
    if isinstance(error, WrongMethod):
        headers["allow"] = error.allowed
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(openai_error(error) if openai else native_error(error), error.status, headers=headers)


def renamed(error: UserError, names: Mapping[str, str]) -> UserError:
    """Fields by the names that a route has for them, in `param` and in the words."""
    if not names:
        return error
    known = re.compile(rf"\b({'|'.join(names)})\b")
    error.message = known.sub(lambda found: names[found[1]], error.message)
    error.param = names.get(error.param or "", error.param)
    return error


def as_user_error(error: BaseException) -> UserError:
    """What a caller is told of an error that is ours: no more than that it happened."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, RecursionError):
        return BadRequest("the request is nested too deeply")
    return InternalError("internal error; the server's log has the details under this request's id")
