"""`ramify generate "Once upon a time"`: complete a prompt in this process and exit."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from ramify.cli.options import engine_settings, split
from ramify.core.errors import BadRequest


@dataclass(frozen=True)
class Options:
    """Complete a prompt and exit."""

    prompt: Annotated[tyro.conf.Positional[str], arg(help="The text to continue; - reads it from standard input.")]
    max_new_tokens: Annotated[int, arg(help="Tokens to generate at most.")] = 128
    temperature: Annotated[float, arg(help="0 always takes the best token.")] = 0.7
    top_p: Annotated[float, arg(help="Keep the best tokens up to this probability.")] = 1.0
    top_k: Annotated[int, arg(help="Keep this many best tokens; -1 keeps all.")] = -1
    seed: Annotated[int | None, arg(help="The same seed gives the same text.")] = None
    stop: Annotated[tuple[str, ...], arg(help="Texts that end the answer.")] = ()
    n: Annotated[int, arg(help="How many answers.")] = 1
    raw: Annotated[bool, arg(help="Do not wrap the prompt in the model's chat template.")] = False
    json: Annotated[bool, arg(help="Print the whole answer as JSON.")] = False


def generate(arguments: list[str]) -> int:
    options, rest = split(Options, arguments, "ramify generate")
    settings = engine_settings(rest, "ramify generate")
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if not prompt:
        raise BadRequest("the prompt is empty")
    from ramify.engine.engine import Engine

    with Engine.from_settings(settings) as engine:
        if not options.raw and engine.has_chat_template:
            prompt = engine.render([{"role": "user", "content": prompt}])
        if options.json or options.n > 1:
            _print_whole(engine.generate(prompt, _params(options)), options.json)
        else:
            _print_stream(engine.generate(prompt, _params(options), stream=True))
    return 0


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
