"""What is read of a model's files to turn its requests into tokens and its tokens into answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ramify.config.generation import read_sampling_defaults
from ramify.config.resolve import Resolved
from ramify.engine.build import load_model_tokenizer
from ramify.engine.speech import Speech, speech_of
from ramify.text.passages import PassageReader
from ramify.text.template import ChatTemplate
from ramify.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Language:
    """`ends` are tokens that end an answer beside those that the engine knows."""

    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    speech: Speech
    sampling_defaults: dict[str, Any]  # of OpenAI's routes
    preferred: dict[str, Any]  # of /generate
    reader: PassageReader | None
    ends: tuple[int, ...] = ()


def language_of(resolved: Resolved) -> Language:
    """Reads files, and takes as long as that takes."""
    tokenizer = load_model_tokenizer(resolved)
    by_model = resolved.settings.server.sampling_defaults == "model"
    defaults = resolved.preferred | (read_sampling_defaults(resolved.folder) if by_model else {})
    reader = None if tokenizer is None else PassageReader(tokenizer, resolved.model.head)
    speech = speech_of(resolved, tokenizer)
    return Language(tokenizer, template_of(tokenizer), speech, defaults, resolved.preferred, reader)


def template_of(tokenizer: Tokenizer | None) -> ChatTemplate | None:
    if tokenizer is None or tokenizer.chat_template is None:
        return None
    return ChatTemplate(tokenizer.chat_template, tokenizer.names)
