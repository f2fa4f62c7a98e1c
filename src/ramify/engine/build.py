"""From settings to what an engine needs: the model found and checked, everything decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ramify.adapters.config import FILE, MAX_CONFIG, read_config
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
    brought = [_brought(each) for each in named_paths(asked.lora_paths or ())]
    targets = asked.lora_target_modules or tuple(sorted({target for _, words in brought for target in words}))
    some = chosen(sites, targets or (ALL,))
    rank = max((rank for rank, _ in brought), default=0)
    elements = sum(site.elements for site in some.values())
    rows = sum(site.inputs for site in some.values() if site.kind == "embedding")
    return Adaptable(elements, tuple(sorted({target_of(name) for name in some})), rank, rows)


def _brought(path: AdapterPath) -> tuple[int, tuple[str, ...]]:
    """The highest rank of an adapter to load, and the last words of its targets; all, where they are an expression."""
    file = Path(path.lora_path) / FILE
    try:
        with file.open("rb") as stream:
            config = read_config(stream.read(MAX_CONFIG))
    except OSError as e:
        raise StartupError(f"--lora-paths {path.lora_name}: {file}: {e.strerror}") from None
    except UserError as e:
        raise StartupError(f"--lora-paths {path.lora_name}: {e.message}") from None
    listed = config.target_modules if isinstance(config.target_modules, list) else [ALL]
    return max(config.r, *(config.rank_pattern or {}).values(), 0), tuple(target_of(name) for name in listed)


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
