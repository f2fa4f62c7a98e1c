"""A name with a thing behind it, found late: `"llama" -> "ramify.models.llama:Llama"`.

Looking a name up imports its module, so that listing what exists costs nothing. Other packages add entries of their
own through the entry-point group `ramify.plugins` (an entry named `models.MyArch` adds `MyArch` to `models`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

T = TypeVar("T")

PLUGIN_GROUP = "ramify.plugins"


class Registry(Generic[T]):
    """Names of one kind. `entries` maps a name to `"module:attribute"`."""

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._plugins: dict[str, str] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._plugged

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._plugged}))

    def __getitem__(self, name: str) -> T:
        target = self._entries.get(name) or self._plugged[name]
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)

    def is_own(self, name: str) -> bool:
        """True for what no other package brought."""
        return name in self._entries

    @property
    def _plugged(self) -> dict[str, str]:
        if self._plugins is None:
            prefix = f"{self.kind}."
            found = entry_points(group=PLUGIN_GROUP)
            self._plugins = {e.name.removeprefix(prefix): e.value for e in found if e.name.startswith(prefix)}
        return self._plugins
