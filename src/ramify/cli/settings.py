"""The flags of `ramify serve`, generated from the settings. YAML, environment and flags come together here."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence

from ramify.cli.line import Flag, Line, describe, flag_of, take
from ramify.config.flags import NEEDLESS, NEEDLESS_WITH_VALUE, SGLANG, instead_of
from ramify.config.read import CONFIG, from_environment, from_file, overlay, unknown_variables
from ramify.config.settings import ROOMS, Settings, names, spellings
from ramify.config.several import from_word, of_file, of_words, values_of
from ramify.core.errors import StartupError, UsageError

CONFIG_FLAG = Flag("config", ("config",), "YAML file of settings; flags and environment win over it.", group="Settings")
LISTS = (tuple[str, ...], tuple[int, ...])
MODEL = ("MODEL", "Folder or hub id (org/model); the same as --model-path. Without it the bundled demo model.")
SEVERAL = "ramify serve holds several models: --model [NAME=]PATH[:embedding] for each, or `models` in the file."
ABOUT = """\
Every flag is also a key of the file that --config names, and an environment variable: --page-size is page_size there
and RAMIFY_PAGE_SIZE here. `ramify explain` shows what a run would use, and why."""


def setting_flags() -> list[Flag]:
    """One for each setting, by room."""
    flags = [flag_of(room, each, room.__doc__ or "") for room in ROOMS.values() for each in dataclasses.fields(room)]
    return [dataclasses.replace(flag, is_list=flag.kind in LISTS) for flag in flags] + [CONFIG_FLAG]


def parse(arguments: Sequence[str], prog: str, base: Settings | None = None) -> Settings:
    """Settings from flags over environment over `--config` over `base`; exits with help."""
    return settings_of(_line(arguments, prog, ABOUT), base)


def parse_models(arguments: Sequence[str], prog: str) -> tuple[Settings, ...]:
    """The same of a server, which can have several models: the settings of each."""
    return models_of(_line(arguments, prog, f"{ABOUT}\n\n{SEVERAL}"))


def _line(arguments: Sequence[str], prog: str, about: str) -> Line:
    line = take_settings(arguments)
    if line.help:
        print(describe(f"{prog} [MODEL] [options]", about, setting_flags(), [MODEL]))
        sys.exit(0)
    return line


def take_settings(arguments: Sequence[str], own: Sequence[Flag] = ()) -> Line:
    """A command line of settings, and of a command's `own` flags beside them."""
    refuse_missing(arguments, own)
    needless = [Flag(name, (name,), why, bool) for name, why in NEEDLESS.items()]
    needless += [Flag(name, (name,), why) for name, why in NEEDLESS_WITH_VALUE.items()]
    line = take(arguments, [*needless, *setting_flags(), *own])
    for flag in needless:
        if line.flags.pop(flag.name, None) is not None:
            print(f"--{flag.name} is not needed: {flag.help}", file=sys.stderr)
    return line


def settings_of(line: Line, base: Settings | None = None) -> Settings:
    """The settings that a command line asks for, by its flags, its file and the environment around it."""
    first, *others = models_of(line, base)
    if others:
        raise UsageError(f"one model is taken here, and there are {1 + len(others)}", "ramify serve takes several.")
    return first


def models_of(line: Line, base: Settings | None = None) -> tuple[Settings, ...]:
    """The same for each of the models, of which there can be several."""
    for warning in unknown_variables(os.environ):
        print(f"ramify: {warning}", file=sys.stderr)
    settings, entries = base or Settings(), None
    if path := line.flags.get("config") or os.environ.get(CONFIG):
        settings, entries = from_file(settings, path)
    settings = from_environment(settings, os.environ)
    asked = {name: value for name, value in line.flags.items() if name in names() and name != "model_path"}
    settings = overlay(settings, asked, "flag", lambda name: line.spelled[name])
    words = _models_on(line)
    if entries is not None:
        if words:
            raise StartupError(f"the models are given twice: in {path}, and on the command line")
        return of_file(settings, entries, str(path))
    if len(words) > 1:
        return of_words(settings, words)
    return (_with_model(settings, line),)


def _models_on(line: Line) -> list[str]:
    """The model that stands without a flag, and those with one."""
    if line.words[1:]:
        said = f"one MODEL stands without a flag, and there are {len(line.words)}: {', '.join(line.words)}"
        raise UsageError(said, "Give the others with --model.")
    return [*line.words, *line.lists.get("model_path", ())]


def _with_model(settings: Settings, line: Line) -> Settings:
    """The one model, if it is named."""
    if line.words:
        return overlay(settings, values_of(from_word(line.words[0]), "MODEL"), "argument", lambda _: "MODEL")
    if "model_path" not in line.flags:
        return settings
    spelled = line.spelled["model_path"]
    return overlay(settings, values_of(from_word(line.flags["model_path"]), spelled), "flag", lambda _: spelled)


def refuse_missing(arguments: Sequence[str], own: Sequence[Flag] = ()) -> None:
    """Flags of SGLang that ask for something ramify does not have."""
    known = {spelling.replace("_", "-") for spelling in spellings()} | {"config", "help"}
    known |= {*NEEDLESS, *NEEDLESS_WITH_VALUE} | {spelling for flag in own for spelling in flag.spellings}
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if argument.startswith("--") and name in SGLANG and name not in known:
            raise StartupError(f"--{name} is a flag of SGLang that ramify does not have", instead_of(name))


def all_flags() -> list[str]:
    """Every flag, for the test that freezes them."""
    return sorted(f"--{spelling}" for flag in setting_flags() for spelling in flag.spellings if flag is not CONFIG_FLAG)
