"""Who may call what."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from starlette.requests import Request

from ramify.config.resolve import is_loopback
from ramify.config.settings import ServerSettings
from ramify.core.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from ramify.server.routes import Auth


def check(request: Request, auth: Auth, settings: ServerSettings) -> None:
    """Raises `Unauthorized` or `Forbidden` unless the request may pass."""
    if auth == "admin":
        require_admin(request, settings)
    elif auth == "user" and settings.api_key:
        keys = [settings.api_key, settings.admin_api_key]
        _require(request, [key for key in keys if key])


def require_admin(request: Request, settings: ServerSettings) -> None:
    """The admin key; without one the API key; without any, nobody but this machine."""
    if settings.admin_api_key or settings.api_key:
        given = _bearer(request)
        told_apart = settings.admin_api_key and settings.admin_api_key != settings.api_key
        if given is not None and told_apart and _same(given, settings.api_key or ""):
            raise Forbidden("this route needs the admin key")
        _require(request, [settings.admin_api_key or settings.api_key or ""])
    elif request.client is None or not is_loopback(request.client.host):
        raise Forbidden("without an API key this route serves this machine only")


def _require(request: Request, keys: list[str]) -> None:
    given = _bearer(request)
    # All keys are compared, and each in constant time: how long it takes says nothing.
    if given is None or not sum(_same(given, key) for key in keys):
        raise Unauthorized(
            "Incorrect API key provided." if given else "You didn't provide an API key.", code="invalid_api_key"
        )


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _same(given: str, key: str) -> bool:
    """Digests have one length, so that the comparison does not tell the key's."""
    digests = (hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest() for value in (given, key))
    return hmac.compare_digest(*digests)
