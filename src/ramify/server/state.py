"""What the handlers of an API worker share. Nothing here outlives a request except what is read-only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ramify.config.generation import read_sampling_defaults
from ramify.config.resolve import Resolved
from ramify.core.errors import BadRequest, EngineDead, NotFound, Overloaded
from ramify.engine.client import Client
from ramify.engine.speech import Speech, speech_of
from ramify.text.passages import PassageReader
from ramify.text.template import ChatTemplate
from ramify.text.tokenizer import Tokenizer

T = TypeVar("T")

TOKENIZER_THREADS = 2


@dataclass
class State:
    """One per API worker."""

    resolved: Resolved
    client: Client
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    speech: Speech
    sampling_defaults: dict[str, Any]  # of OpenAI's routes
    preferred: dict[str, Any]  # of /generate
    threads: ThreadPoolExecutor
    folder: Path  # of this run, for files that nobody else may read
    reader: PassageReader | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    warned: set[str] = field(default_factory=set)

    async def off_loop(self, work: Callable[..., T], *args: Any) -> T:
        """Tokenizing and rendering take milliseconds to seconds: never on the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *args)

    def words(self) -> Tokenizer:
        if self.tokenizer is None:
            raise BadRequest("this server has no tokenizer (--skip-tokenizer-init): send token ids", param="text")
        return self.tokenizer

    def passages(self) -> PassageReader:
        """Reads texts for a model with a head."""
        self.words()
        assert self.reader is not None
        return self.reader

    def check_open(self) -> None:
        """Raises where no request can be taken now."""
        if self.client.died is not None:
            raise EngineDead(self.client.died)
        if self.draining:
            raise Overloaded("The server is shutting down.", retry_after=5)
        if not self.client.ready.is_set():
            raise Overloaded("The model is still loading.", retry_after=5)

    def adapter_in(self, model: str) -> str:
        """The adapter that a model's name means, `MODEL:ADAPTER` or just `ADAPTER`: whether there is one of that name
        the engine knows. Empty for the model alone. Raises for a model that is not served.
        """
        if model in self.names:
            return ""
        behind = [model.removeprefix(f"{name}:") for name in self.names if model.startswith(f"{name}:")]
        named = behind[0] if behind else model
        if self.resolved.adapters is None or not named or ":" in named:
            raise self.not_served(model)
        return named

    def check_model(self, name: str) -> None:
        """Raises for a model that is not served."""
        self.adapter_in(name)

    def not_served(self, model: str) -> NotFound:
        return NotFound(
            f"The model '{model}' does not exist. This server has '{self.resolved.served_name}'.",
            param="model",
            code="model_not_found",
        )

    def told_as(self, model: str) -> str:
        """What an answer calls the model that a request named so."""
        return model if self.adapter_in(model) else self.resolved.served_name

    @property
    def names(self) -> tuple[str, ...]:
        """Names the model answers to; "default" is what clients of SGLang send when they do not care."""
        return (self.resolved.served_name, self.resolved.folder.name, str(self.resolved.folder), "default", "")


def make_state(resolved: Resolved, client: Client, tokenizer: Tokenizer | None, folder: Path) -> State:
    template = None
    if tokenizer is not None and tokenizer.chat_template is not None:
        template = ChatTemplate(tokenizer.chat_template, tokenizer.names)
    threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="ramify-text")
    by_model = resolved.settings.server.sampling_defaults == "model"
    defaults = resolved.preferred | (read_sampling_defaults(resolved.folder) if by_model else {})
    speech = speech_of(resolved, tokenizer)
    reader = None if tokenizer is None else PassageReader(tokenizer, resolved.model.head)
    return State(resolved, client, tokenizer, template, speech, defaults, resolved.preferred, threads, folder, reader)
