"""What the output of a request must look like: from the fields of a request to a note for the engine.

Faces of ramify talk to this, and not to the grammar room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ramify.core.errors import BadRequest
from ramify.grammar.constraint import NATIVE, NOTE, Constraint, encode, from_response_format, from_sampling
from ramify.grammar.translate import check

Notes = dict[str, bytes]


def of_sampling(raw: Mapping[str, Any] | None, after: str = "") -> tuple[dict[str, Any], Notes]:
    """SGLang's sampling parameters without the constraint among them, and its note. The constraint holds from behind
    the first `after` in the output on, or from the start.
    """
    given = dict(raw or {})
    constraint = from_sampling(given)
    if constraint is not None and after:
        constraint = msgspec.structs.replace(constraint, after=after)
    for kind in NATIVE:
        given.pop(kind, None)
    return given, note_of(constraint)


def of_request(response_format: Mapping[str, Any] | None, native: Mapping[str, Any]) -> Constraint | None:
    """OpenAI's `response_format`, or one of the native fields; not both."""
    constraint = from_response_format(response_format) if response_format is not None else None
    extra = from_sampling(native)
    if constraint is not None and extra is not None:
        raise BadRequest(f"response_format does not go with {extra.kind}", param="response_format")
    return constraint or extra


def note_of(constraint: Constraint | None) -> Notes:
    """Raises `BadRequest` for what can be seen to be wrong without compiling it."""
    if constraint is None:
        return {}
    check(constraint)
    return {NOTE: encode(constraint)}
