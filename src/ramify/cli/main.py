"""`ramify`: finds the command and runs it. What a command needs is imported when it is chosen."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import ramify
from ramify.core.errors import StartupError, UsageError, UserError

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("ramify.cli.serve:serve", "serve a model over HTTP"),
    "generate": ("ramify.cli.generate:generate", "answer a prompt, or continue it, and exit"),
    "chat": ("ramify.cli.chat:chat", "talk to a model in the terminal"),
    "bench": ("ramify.cli.bench:bench", "measure a server, or the engine itself"),
    "quantize": ("ramify.cli.quantize:quantize", "write a checkpoint in fewer bits, and measure it"),
    "explain": ("ramify.cli.serve:explain", "show what a run would use, and why"),
    "models": ("ramify.cli.models:models", "list the architectures that can be served"),
    "doctor": ("ramify.cli.doctor:doctor", "look at this machine and this installation"),
    "version": ("ramify.cli.main:version", "print the version"),
}

USAGE = """\
ramify serves language models.

usage: ramify COMMAND [options]        ramify COMMAND --help for its options

{commands}

first steps:
  ramify serve                         serve the bundled demo model on http://127.0.0.1:30000
  ramify serve path/to/model           serve a model from a folder, or by its hub id (org/model)
  ramify chat                          talk to the demo model right here
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point of the command line."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())))
        return 0
    if args[0] in ("-V", "--version"):
        return version([])
    if args[0] not in COMMANDS:
        from ramify.config.read import did_you_mean

        near = did_you_mean(args[0], COMMANDS)
        print(f"ramify: there is no command {args[0]!r}\n  {near or 'One of: ' + ', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _, name = COMMANDS[args[0]][0].partition(":")
    run: Callable[[list[str]], int] = getattr(import_module(module), name)
    return _guarded(run, args[1:])


def _guarded(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Errors that are the user's to mend are two lines, not a traceback."""
    try:
        return run(arguments)
    except StartupError as e:
        print(f"ramify: {e}", file=sys.stderr)
        return 2 if isinstance(e, UsageError) else 1
    except UserError as e:
        print(f"ramify: {e.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        return 0


def version(arguments: list[str]) -> int:
    if arguments:
        raise UsageError(f"version takes no {arguments[0]!r}")
    print(ramify.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
