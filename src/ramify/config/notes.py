"""Decisions while they are made, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """One resolved value and why it is that."""

    name: str
    value: Any
    reason: str


class Notes:
    """Collects decisions while they are made."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.made: list[Decision] = []
        self._sources = sources

    def asked(self, name: str) -> str:
        """The reason of a value that somebody asked for: where they did."""
        return self._sources.get(name, "as asked")

    def asked_for(self, name: str, otherwise: str) -> str:
        """The same of a setting that has its default already."""
        return self._sources.get(name, otherwise)

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        self.made.append(Decision(name, value, reason))
        return value

    def asked_or(self, name: str, asked: Any, default: Callable[[], tuple[Any, str]]) -> Any:
        """The value that was asked for, or the default with its reason."""
        if asked is not None:
            return self(name, asked, self.asked(name))
        return self(name, *default())
