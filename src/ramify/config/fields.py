"""Values of a `config.json`, each checked as it is read; errors name the key."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from ramify.core.errors import StartupError

Raw = dict[str, Any]


def positive(raw: Raw, key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise StartupError(f"config.json: {key} should be a positive integer and is {value!r}")
    return value


def above_zero(raw: Raw, key: str, default: float | None = None, where: str = "") -> float:
    value = raw.get(key)
    if value is None:
        value = default
    if not is_number(value) or not 0 < value < math.inf:
        raise StartupError(f"config.json: {where}{key} should be a number above 0 and is {value!r}")
    return float(value)


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flag(raw: Raw, key: str, default: bool = False) -> bool:
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise StartupError(f"config.json: {key} should be true or false and is {value!r}")
    return value


def sequence(raw: Raw, key: str, length: int, of: tuple[type, ...]) -> list[Any] | None:
    """A list with one entry per layer (more are cut off, as transformers does); None where there is none."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) < length or not all(isinstance(each, of) for each in value):
        raise StartupError(f"config.json: {key} should be a list with an entry for each of {length} layers")
    return value[:length]


def choice(raw: Raw, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    value = raw.get(key)
    if value is None:
        value = default
    if value not in allowed:
        raise StartupError(f"config.json: {key} {value!r} is not supported", f"Supported: {', '.join(allowed)}.")
    return str(value)
