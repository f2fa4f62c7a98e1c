"""The error tree: what went wrong in words for a user, and which HTTP status it is.

A `UserError` is the caller's to mend and is safe to show. A `StartupError` ends the process before it serves, with the
cause and the remedy. Everything else is ours and is an ordinary exception.
"""

from __future__ import annotations


class RamifyError(Exception):
    """Base of every error that ramify raises on purpose."""


class StartupError(RamifyError):
    """The server cannot start. `cause` says what is wrong, `remedy` what to type or change."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause, self.remedy = cause, remedy
        super().__init__(f"{cause}\n  {remedy}" if remedy else cause)


class UsageError(StartupError):
    """The command line itself cannot be understood."""


class DeviceLostError(RamifyError):
    """The device computes nothing any more for this process, which has to end: others start it again."""


class UserError(RamifyError):
    """A request that cannot be served as asked.

    `param` names the offending field (JSON path without the leading `$.`), `code` is a short machine-readable word.
    """

    status = 400
    kind = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


class BadRequest(UserError):
    """400: the request itself is wrong."""


class Unauthorized(UserError):
    """401: no key, or the wrong one."""

    status = 401
    kind = "authentication_error"


class Forbidden(UserError):
    """403: a good key that does not open this route."""

    status = 403
    kind = "permission_error"


class NotFound(UserError):
    """404: no such model, route or object."""

    status = 404
    kind = "not_found_error"


class WrongMethod(UserError):
    """405: the route exists and takes other methods, `allowed`."""

    status = 405

    def __init__(self, message: str, allowed: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed


class TooSlow(UserError):
    """408: the body did not come in time."""

    status = 408


class HeadersTooLarge(UserError):
    """431: too many headers, or too long ones."""

    status = 431


class TooLarge(UserError):
    """413: the body is over the limit."""

    status = 413


class UnsupportedMedia(UserError):
    """415: the body is not JSON."""

    status = 415


class Overloaded(UserError):
    """503: the queue is full or the server is draining; worth trying again after `retry_after` seconds."""

    status = 503
    kind = "server_error"

    def __init__(self, message: str, *, retry_after: int = 1, code: str | None = "overloaded") -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class EngineDead(UserError):
    """503: the engine process is gone; open requests have failed and new ones cannot be served."""

    status = 503
    kind = "server_error"


class InternalError(UserError):
    """500: this request broke something of ours; other requests go on."""

    status = 500
    kind = "server_error"


BY_STATUS: dict[int, type[UserError]] = {
    e.status: e for e in (BadRequest, Unauthorized, Forbidden, NotFound, TooLarge, UnsupportedMedia, InternalError)
}


def from_status(status: int, message: str, *, code: str | None = None) -> UserError:
    """The error of HTTP status `status`, as the engine sends it over the wire by number."""
    if status == Overloaded.status:
        return EngineDead(message, code=code) if code == "engine_dead" else Overloaded(message)
    return BY_STATUS.get(status, InternalError)(message, code=code)
