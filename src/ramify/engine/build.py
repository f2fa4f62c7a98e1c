"""From settings to what an engine needs: the model found and checked, everything decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ramify.config import gguf
from ramify.config.generation import read_sampling_defaults
from ramify.config.machine import Machine, read_machine
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import Settings
from ramify.config.several import is_own
from ramify.config.share import Found, resolve_all
from ramify.config.source import locate
from ramify.core.errors import StartupError
from ramify.models.choose import choose_model
from ramify.ops.cpu.library import instruction_set
from ramify.text.tokenizer import Tokenizer, check_tokenizer, load_tokenizer, template_file
from ramify.text.tools.choose import choose_formats


def prepare(settings: Settings) -> Resolved:
    """Find the model, look at all its files, decide. Imports no torch. What is wrong with a folder is found here,
    before any process is started; only a tokenizer that transformers has to convert is not tried.
    """
    found = find(settings)
    gguf.forget()
    return resolve(found.settings, found.model, found.folder, machine_here())


def prepare_all(asked: Sequence[Settings]) -> tuple[Resolved, ...]:
    """The same for all models of a server, which share its memory."""
    if len(asked) == 1:
        return (prepare(asked[0]),)
    found = [find(settings) for settings in asked]
    gguf.forget()
    shares = [each.cache.mem_fraction_static for each in asked if not is_own(each, "mem_fraction_static")]
    return resolve_all(found, machine_here(), next(iter(shares), None))


def machine_here() -> Machine:
    return replace(read_machine(), kernels=instruction_set())


def find(settings: Settings) -> Found:
    """A model and all its files, looked at."""
    dummy = settings.model.load_format in ("dummy", "none")
    folder = locate(settings.model.model_path, settings.model.revision, weights=not dummy)
    model = choose_model(folder, settings.model)
    read_sampling_defaults(folder)
    if settings.model.chat_template is not None:
        _must_exist(template_file(settings.model.chat_template), "--chat-template")
    choose_formats(settings.server.tool_call_parser, settings.server.reasoning_parser, None)
    asked = settings.model.tokenizer_path
    words = folder if asked is None else locate(asked, weights=False)
    if not settings.model.skip_tokenizer_init:
        check_tokenizer(words, settings.model.chat_template)
    return Found(settings, model, folder)


def load_model_tokenizer(resolved: Resolved) -> Tokenizer | None:
    """The tokenizer of the model, or of `--tokenizer-path`; none with `--skip-tokenizer-init`."""
    if resolved.settings.model.skip_tokenizer_init:
        return None
    asked = resolved.settings.model.tokenizer_path
    folder = resolved.folder if asked is None else locate(asked, weights=False)
    return load_tokenizer(folder, resolved.settings.model.chat_template)


def _must_exist(path: Path, flag: str) -> None:
    if not path.is_file():
        raise StartupError(f"{flag} {path}: there is no such file")
