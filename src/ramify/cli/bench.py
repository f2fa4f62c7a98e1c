"""`ramify bench serve` and `ramify bench offline`: how fast a server is, and how fast the engine itself."""

from __future__ import annotations

import sys
from collections.abc import Callable

import tyro

from ramify.bench.options import OfflineOptions, ServeOptions
from ramify.cli.options import PLAIN, engine_settings, split

USAGE = """\
usage: ramify bench serve [options]            measure a running server over HTTP: ramify's, SGLang's, or any that
                                               speaks the OpenAI API
       ramify bench offline MODEL [options]    measure the engine in this process, without HTTP

       ramify bench serve --help, ramify bench offline --help for the options
"""


def bench(arguments: list[str]) -> int:
    """Runs the measurement that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0] not in MEASUREMENTS:
        print(f"ramify bench: there is no {arguments[0]!r}. One of: {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    return MEASUREMENTS[arguments[0]](arguments[1:])


def serve(arguments: list[str]) -> int:
    options = tyro.cli(ServeOptions, args=arguments, prog="ramify bench serve", config=PLAIN)
    from ramify.bench.serve import serve as run

    return run(options)


def offline(arguments: list[str]) -> int:
    options, rest = split(OfflineOptions, arguments, "ramify bench offline")
    options.check()
    settings = engine_settings(rest, "ramify bench offline")
    from ramify.bench.offline import offline as run

    return run(options, settings)


MEASUREMENTS: dict[str, Callable[[list[str]], int]] = {"serve": serve, "offline": offline}
