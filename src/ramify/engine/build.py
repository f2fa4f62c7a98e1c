"""From settings to what an engine needs: the model found and checked, everything decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ramify.adapters.peft import Outline, outline
from ramify.config import gguf
from ramify.config.adapters import ALL, Adaptable, AdapterPath, named_paths
from ramify.config.generation import read_sampling_defaults
from ramify.config.gpu import index_of, probe
from ramify.config.machine import Machine, read_machine
from ramify.config.model import ModelConfig
from ramify.config.resolve import Resolved, device_of, resolve
from ramify.config.settings import Settings
from ramify.config.several import is_own
from ramify.config.share import Found, resolve_all
from ramify.config.source import locate
from ramify.core.errors import StartupError, UserError
from ramify.models.adapted import chosen, sites_of, target_of
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
    return resolve(found.settings, found.model, found.folder, machine_here(settings), found.adaptable)


def prepare_all(asked: Sequence[Settings]) -> tuple[Resolved, ...]:
    """The same for all models of a server, which share its memory."""
    if len(asked) == 1:
        return (prepare(asked[0]),)
    found = [find(settings) for settings in asked]
    gguf.forget()
    shares = [each.cache.mem_fraction_static for each in asked if not is_own(each, "mem_fraction_static")]
    return resolve_all(found, machine_here(*asked), next(iter(shares), None))


def machine_here(*asked: Settings) -> Machine:
    """This machine, and those of its GPUs that are asked for; only then is a GPU asked, which takes seconds."""
    indices = {index_of(device_of(settings)) for settings in asked} - {None}
    gpus = probe(tuple(sorted(index for index in indices if index is not None))) if indices else ()
    return replace(read_machine(), kernels=instruction_set(), gpus=gpus)


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
    return Found(settings, model, folder, adaptable(settings, model))


def adaptable(settings: Settings, model: ModelConfig) -> Adaptable | None:
    """What of the model adapters may change, where there are to be any; raises `StartupError` if none can be."""
    asked = settings.adapters
    if not asked.enable_lora and asked.lora_paths is None:
        return None
    if settings.model.load_format == "none":
        raise StartupError("--enable-lora needs a model, and --load-format none has none")
    sites = sites_of(model)
    if not sites:
        raise StartupError(f"{model.architecture}: adapters are served with native decoders only")
    brought = [_brought(each, model) for each in named_paths(asked.lora_paths or ())]
    targets = asked.lora_target_modules or tuple(sorted({target for each in brought for target in each.targets}))
    some = chosen(sites, tuple({target_of(name) for name in chosen(sites, targets or (ALL,))}))
    words = {name: site for name, site in sites.items() if site.has_vocabulary}
    whole = asked.lora_whole_modules or tuple(sorted({name for each in brought for name in each.whole}))
    large = {name: site for name, site in sites.items() if site.can_be_whole}
    replaced = chosen(large, whole, "--lora-whole-modules")
    return Adaptable(
        sum(site.elements for site in some.values()),
        tuple(sorted({target_of(name) for name in some})),
        max((each.rank for each in brought), default=0),
        sum(site.inputs for site in some.values() if site.kind == "embedding"),
        tuple(sorted({target_of(name) for name in replaced})),
        sum(site.tokens * site.width for site in replaced.values()),
        sum(site.width for site in words.values()),
        sum(site.has_vocabulary for site in some.values()),
        sum(site.kind == "embedding" for site in some.values()),
        max((each.tokens for each in brought), default=0),
    )


def _brought(path: AdapterPath, model: ModelConfig) -> Outline:
    try:
        return outline(Path(path.lora_path), model.vocab)
    except OSError as e:
        raise StartupError(f"--lora-paths {path.lora_name}: {e.filename}: {e.strerror}") from None
    except UserError as e:
        raise StartupError(f"--lora-paths {path.lora_name}: {e.message}") from None


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
