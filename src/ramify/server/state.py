"""What the handlers of an API worker share about a model. Nothing here outlives a request except what is read-only."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ramify.config.resolve import Resolved
from ramify.core.errors import BadRequest, NotFound
from ramify.engine.client import Client
from ramify.engine.speech import Speech
from ramify.server.language import Language, language_of
from ramify.server.link import Link
from ramify.server.words import AdapterWords, adapters_in
from ramify.text.passages import PassageReader
from ramify.text.template import ChatTemplate
from ramify.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ramify.server.directory import Directory

T = TypeVar("T")

TOKENIZER_THREADS = 2


@dataclass
class State:
    """One model, one API worker."""

    resolved: Resolved
    link: Link
    threads: ThreadPoolExecutor
    folder: Path  # of this run, for files that nobody else may read
    adapter_words: AdapterWords | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    warned: set[str] = field(default_factory=set)
    directory: Directory = field(init=False)  # in which it stands, with the others
    _language: Language | None = None
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self) -> None:
        """The model's language, once; handlers that need it may count on it."""
        async with self._loading:
            if self._language is None:
                self._language = await self.off_loop(language_of, self.resolved)
        for client in self.link.clients:
            client.tokenizer = self.tokenizer

    async def under(self, asked: Any) -> State:
        """The same with the language of the adapter that a request names, where that has one of its own."""
        if self.adapter_words is None or self._language is None:
            return self
        named = adapters_in(asked, self.adapter_in)
        found = [await self.off_loop(self.adapter_words.of, name, self._language) for name in named - {""}]
        own = [language for language in found if language is not None]
        if not own:
            return self
        if len(named) > 1:
            raise BadRequest(
                "lora_path: an adapter that has a tokenizer or a chat template of its own is asked by itself",
                param="lora_path",
            )
        state = copy.copy(self)
        state._language = own[0]
        return state

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer and are not the model's."""
        return () if self._language is None else self._language.ends

    @property
    def language(self) -> Language:
        assert self._language is not None, "a route that reads or writes text says so"
        return self._language

    @property
    def client(self) -> Client:
        return self.link.client

    @property
    def tokenizer(self) -> Tokenizer | None:
        return None if self._language is None else self._language.tokenizer

    @property
    def template(self) -> ChatTemplate | None:
        return self.language.template

    @property
    def speech(self) -> Speech:
        return self.language.speech

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        return self.language.sampling_defaults

    @property
    def preferred(self) -> dict[str, Any]:
        return self.language.preferred

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
        assert self.language.reader is not None
        return self.language.reader

    def check_open(self) -> None:
        """Raises where no request can be taken now."""
        self.link.check()

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
