"""Which model a name means. Which adapter of that model it means, `State.adapter_in` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ramify.core.errors import NotFound
from ramify.wire.notices import EngineNews

if TYPE_CHECKING:
    from ramify.server.state import State

UNNAMED = (None, "", "default")  # "default" is what clients of SGLang send when they do not care


class Directory:
    """The models of an API worker, in the order in which the server was given them."""

    def __init__(self, states: Sequence[State]) -> None:
        self.states = tuple(states)
        self.draining = False
        for state in self.states:
            state.directory = self

    @property
    def first(self) -> State:
        """What is meant where no model is named."""
        return self.states[0]

    @property
    def several(self) -> bool:
        return len(self.states) > 1

    def find(self, name: str | None) -> State:
        """By the served name; else by the path of the model or its last part; `base:adapter` is the model `base`, and
        `adapter` alone the one model that has any. Raises `NotFound`. Where there is one model it is always that one,
        which looks at the name itself.
        """
        if name in UNNAMED or not self.several:
            return self.first
        assert name is not None
        found = self._known(name) or self._known(name.rsplit(":", 1)[0]) or self._adapted(name)
        if found is not None:
            return found
        raise NotFound(
            f"The model '{name[:256]}' does not exist. This server has {self.listed}.",
            param="model",
            code="model_not_found",
        )

    def _known(self, name: str) -> State | None:
        called = [state for state in self.states if name == state.resolved.served_name]
        return next(iter(called or [state for state in self.states if name in state.names]), None)

    def _adapted(self, name: str) -> State | None:
        """The model of an adapter, whose engine knows whether there is one of that name."""
        adapted = [state for state in self.states if state.resolved.adapters is not None]
        return adapted[0] if len(adapted) == 1 and ":" not in name else None

    @property
    def listed(self) -> str:
        return ", ".join(f"'{state.resolved.served_name}'" for state in self.states)

    # -- all of them ---------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """What is open goes on, and nothing new is taken."""
        self.draining = True
        for state in self.states:
            state.link.drain()

    def hear(self, news: EngineNews) -> None:
        self.states[news.model].link.hear(news)

    @property
    def open_requests(self) -> int:
        return sum(client.open_requests for state in self.states for client in state.link.clients)

    def give_up(self, reason: str) -> None:
        for state in self.states:
            for client in state.link.clients:
                client.give_up(reason)

    def close(self) -> None:
        for state in self.states:
            state.link.close()
