"""`ramify bench serve` and `ramify bench offline`: how fast a server is, and how fast the engine itself."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable

from ramify.bench.options import OfflineOptions, ServeOptions
from ramify.cli.command import flags_of, options_of, read, settings_beside
from ramify.cli.line import Flag, Line, describe, take
from ramify.config.read import did_you_mean
from ramify.core.errors import UsageError

USAGE = """\
usage: ramify bench serve [options]
       ramify bench offline [MODEL] [options]

  serve    measure a running server over HTTP: ramify's, SGLang's, or any that speaks the OpenAI API
  offline  measure the engine in this process, without HTTP, and if asked transformers beside it

first steps:
  ramify bench serve --max-concurrency 8             the server on http://127.0.0.1:30000, 8 requests at a time
  ramify bench serve --request-rate 4                requests that come when they come, 4 per second on average
  ramify bench offline --against transformers        the bundled demo model, and what transformers does with it

ramify bench serve --help, ramify bench offline --help for the options
"""
MODEL = ("MODEL", "Folder or hub id of a model (org/model). Without it the bundled demo model.")


def bench(arguments: list[str]) -> int:
    """Runs the measurement that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0] not in MEASUREMENTS:
        near = did_you_mean(arguments[0], MEASUREMENTS)
        raise UsageError(f"there is no measurement {arguments[0]!r}", near or f"One of: {', '.join(MEASUREMENTS)}.")
    return MEASUREMENTS[arguments[0]](arguments[1:])


def serve(arguments: list[str]) -> int:
    line = take(arguments, serve_flags())
    if line.help:
        print(describe("ramify bench serve [options]", ServeOptions.__doc__ or "", serve_flags()))
        return 0
    options = serve_options(line)
    options.check()
    from ramify.bench.serve import serve as run

    return run(options)


def serve_flags() -> list[Flag]:
    """Flags of all groups."""
    return [flag for group in _groups().values() for flag in flags_of(group, group.__doc__ or "")]


def serve_options(line: Line) -> ServeOptions:
    """Words may stand behind --goodput only: it takes several limits."""
    if line.words and "goodput" not in line.flags:
        raise UsageError(f"bench serve takes no {line.words[0]!r}", "The server's address is --base-url URL.")
    if line.words:
        line.lists["goodput"] += line.words
    return ServeOptions(**{name: options_of(group, line) for name, group in _groups().items()})


def _groups() -> dict[str, type]:
    hints = typing.get_type_hints(ServeOptions)
    return {field.name: hints[field.name] for field in dataclasses.fields(ServeOptions)}


def offline(arguments: list[str]) -> int:
    options, line = read(OfflineOptions, arguments, "ramify bench offline [MODEL] [options]", [MODEL])
    options.check()
    settings = settings_beside(line)
    from ramify.bench.offline import offline as run

    return run(options, settings)


MEASUREMENTS: dict[str, Callable[[list[str]], int]] = {"serve": serve, "offline": offline}
