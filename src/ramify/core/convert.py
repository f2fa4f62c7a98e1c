"""Untrusted values into typed structs, with errors that name the field."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ramify.core.errors import BadRequest

T = TypeVar("T")


def convert(raw: Any, kind: type[T], where: str = "") -> T:
    """`raw`, as it came out of JSON, as a `kind`; raises `BadRequest`. `where` is the object it is a part of.

    Types are taken at their word: a string is no number, and neither is a boolean.
    """
    try:
        return msgspec.convert(raw, kind, str_keys=True)
    except msgspec.ValidationError as e:
        raise named(e, where) from None
    except RecursionError:
        raise BadRequest("the request is nested too deeply") from None


def named(error: msgspec.ValidationError, where: str = "") -> BadRequest:
    """msgspec says "... - at `$.field`"; make that a sentence about the field, and the field a datum of its own."""
    text, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").rpartition("$")[2].lstrip(".")
    if "unknown field `" in text:
        key = text.split("unknown field `")[1].rstrip("`")
        return BadRequest(f"unknown key {key!r}{f' in {where}' if where else ''}", param=key, code="unknown_parameter")
    if "required field `" in text:
        key = text.split("required field `")[1].rstrip("`")
        field = f"{field}.{key}" if field else key
        whole = f"{where}.{field}" if where else field
        return BadRequest(f"{whole} is required", param=whole, code="missing_required_parameter")
    prefix = ".".join(part for part in (where, field) if part)
    return BadRequest(f"{prefix}: {text}" if prefix else text, param=field or where or None)
