"""`ramify generate "Once upon a time"`: answer a prompt, or continue it, in this process and exit."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramify.cli.command import option, read, settings_beside
from ramify.cli.line import Line
from ramify.config.read import overlay
from ramify.config.settings import MANY, Range, Settings
from ramify.core.errors import BadRequest, UsageError

USAGE = "ramify generate PROMPT [MODEL] [options]"
ADAPTER = "adapter"  # what the one of --lora is called
WORDS = (
    ("PROMPT", "What to answer, in quotes; - reads it from standard input."),
    ("MODEL", "Folder or hub id of a model (org/model). Without it the bundled demo model."),
)


@dataclass(frozen=True)
class Options:
    """Answer a prompt and exit. Where the model has a chat template, the prompt is a user's message to it; with --raw,
    or where there is none, it is a text to continue.
    """

    max_new_tokens: int = option(128, "Tokens to generate at most.", Range(0, MANY))
    temperature: float = option(0.7, "0 always takes the best token.", Range(0, 1e6))
    top_p: float = option(1.0, "Keep the best tokens up to this probability.", Range(1e-9, 1))
    top_k: int = option(-1, "Keep this many best tokens; -1 keeps all.", Range(1, MANY, (-1,)))
    seed: int | None = option(None, "The same seed gives the same text.", Range(-(2**63), 2**63 - 1))
    stop: tuple[str, ...] = option((), "A text that ends the answer; may be given several times.")
    n: int = option(1, "How many answers.", Range(1, 128))
    lora: str | None = option(None, "Folder of an adapter (PEFT) that the answer is computed with.")
    raw: bool = option(False, "Continue the prompt as it stands, without the model's chat template.")
    json: bool = option(False, "Print the whole answer as JSON.")


def generate(arguments: list[str]) -> int:
    options, line = read(Options, arguments, USAGE, WORDS)
    given = _take_prompt(line)
    settings, adapter = _with_adapter(settings_beside(line), options.lora)
    prompt = sys.stdin.read() if given == "-" else given
    if not prompt:
        raise BadRequest("the prompt is empty")
    from ramify.engine.engine import Engine

    with Engine.from_settings(settings) as engine:
        whole = options.json or options.n > 1
        if options.raw or not engine.has_chat_template:
            answer = engine.generate(prompt, _params(options), stream=not whole, lora_path=adapter)
        else:
            messages = [{"role": "user", "content": prompt}]
            answer = engine.chat(messages, _params(options), stream=not whole, lora_path=adapter)
        if whole:
            _print_whole(answer, options.json)
        else:
            _print_stream(answer)
    return 0


def _with_adapter(settings: Settings, folder: str | None) -> tuple[Settings, str | None]:
    """The settings that load an adapter, and what it is called."""
    if folder is None:
        return settings, None
    return overlay(settings, {"lora_paths": (f"{ADAPTER}={folder}",)}, "--lora"), ADAPTER


def _take_prompt(line: Line) -> str:
    """The first word; a second one is the model, if it can be one."""
    if not line.words:
        raise UsageError("there is no prompt", f"usage: {USAGE}")
    prompt, *rest = line.words
    if rest[1:] or any("/" not in word and not Path(word).is_dir() for word in rest):
        raise UsageError(
            "the prompt is more than one word of the command line",
            f'Put it in quotes: ramify generate "{" ".join(line.words)}"',
        )
    line.words = rest
    return prompt


def _params(options: Options) -> dict[str, Any]:
    return {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "sampling_seed": options.seed,
        "stop": list(options.stop) or None,
        "n": options.n,
    }


def _print_stream(outputs: Any) -> None:
    said = 0
    for output in outputs:
        print(output["text"][said:], end="", flush=True)
        said = max(said, len(output["text"]))
    print()


def _print_whole(outputs: Any, as_json: bool) -> None:
    import msgspec

    for output in outputs if isinstance(outputs, list) else [outputs]:
        print(msgspec.json.encode(output).decode() if as_json else output["text"].strip() + "\n")
