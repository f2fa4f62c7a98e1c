"""What the body of a route may hold, as data: every field is honoured, accepted without effect, or refused by name.

The same types that validate a request describe it in the OpenAPI document.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.requests import Request

from ramify.core.convert import convert
from ramify.core.errors import BadRequest
from ramify.server.state import State

log = logging.getLogger(__name__)

Standing = Literal["honoured", "no effect", "refused"]
EMPTY: tuple[Any, ...] = (None, False, "", [], {})
MAX_WARNED = 1000
MAX_IGNORED_SHOWN = 8


@dataclass(frozen=True)
class Takes:
    """Fields of `struct` are honoured. `no_effect` change no answer here, with the reason why not. `refused` need a
    feature that is not here, and an empty value of them is as good as none. `optional`: the body may be missing.
    `parts`: types of fields that their handler looks into, since templates and such get them as they came.
    """

    struct: type[msgspec.Struct]
    no_effect: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False
    parts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.honoured, *self.no_effect, *self.refused]
        assert len(names) == len(set(names)), "a field has one standing"

    @property
    def honoured(self) -> tuple[str, ...]:
        return self.struct.__struct_encode_fields__

    def table(self) -> Iterator[tuple[str, Standing, str]]:
        """Every known field with its standing and the reason."""
        yield from ((name, "honoured", "") for name in self.honoured)
        yield from ((name, "no effect", why) for name, why in self.no_effect.items())
        yield from ((name, "refused", feature) for name, feature in self.refused.items())

    def read(self, body: Mapping[str, Any]) -> msgspec.Struct:
        """The typed body; raises `BadRequest` that names the field."""
        for key, feature in self.refused.items():
            if body.get(key) not in EMPTY:
                raise BadRequest(f"{key} needs {feature}, which this version of ramify does not have", param=key)
        return convert({key: body[key] for key in self.honoured if key in body}, self.struct)

    def unknown(self, body: Mapping[str, Any]) -> list[str]:
        """Keys that nobody reads."""
        return sorted(body.keys() - set(self.honoured) - self.no_effect.keys() - self.refused.keys())


WARNINGS = "ramify.warnings"  # where in the scope of a request they stand


def warn(state: State, request: Request, text: str) -> None:
    """What of a request could not be done, though it is answered: for its client, in the header `X-Ramify-Warning`, and
    for the log.
    """
    request.scope.setdefault(WARNINGS, []).append(text)
    _log_once(state, request, text)


def warn_of_unknown(state: State, request: Request, unknown: list[str]) -> None:
    """Keys that nobody reads."""
    shown = ", ".join(key[:64] for key in unknown[:MAX_IGNORED_SHOWN])
    more = f" and {len(unknown) - MAX_IGNORED_SHOWN} more" if len(unknown) > MAX_IGNORED_SHOWN else ""
    request.scope.setdefault(WARNINGS, []).append(f"unknown fields without effect: {shown}{more}")
    for key in unknown:
        _log_once(state, request, f"the field {key[:100]!r} is not known and has no effect")


def _log_once(state: State, request: Request, text: str) -> None:
    """Once per worker."""
    line = f"{request.scope['path']}: {text}"
    if line not in state.warned and len(state.warned) < MAX_WARNED:
        state.warned.add(line)
        log.warning("%s", line)


def as_header(warnings: list[str]) -> bytes:
    """In printable ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in "; ".join(warnings)).encode()
