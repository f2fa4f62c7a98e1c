"""`ramify quantize MODEL OUT --scheme w8a8`: a checkpoint in fewer bits, and what that costs in quality."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ramify.cli.command import flags_of, option, options_of
from ramify.cli.line import describe, take
from ramify.core import log as logs
from ramify.core.errors import StartupError, UsageError

USAGE = "ramify quantize MODEL OUT --scheme NAME [options]"
WORDS = (
    ("MODEL", "Folder or hub id of a model in bf16, fp16 or fp32."),
    ("OUT", "The folder to write. It must not exist."),
)
SAMPLE = Path(__file__).parents[1] / "bundled" / "calibration.txt"
MOST_TEXT = 1 << 20  # characters
MIB = 1 << 20


@dataclass(frozen=True)
class Options:
    """Write a checkpoint of compressed-tensors, which ramify and other engines serve. Embeddings and the head stay as
    they are. The first half of a text calibrates, and on the second the result is compared with the model.
    """

    scheme: Literal["w8a8", "int4", "fp8"] | None = option(
        None, "w8a8: int8, a scale per output. int4: groups of 32. fp8: E4M3, a scale per output."
    )
    text: str | None = option(None, "A text file like what the model will be used for. Default: a short one.")


def quantize(arguments: list[str]) -> int:
    flags = flags_of(Options)
    line = take(arguments, flags)
    if line.help:
        print(describe(USAGE, Options.__doc__ or "", flags, WORDS))
        return 0
    options = options_of(Options, line)
    if len(line.words) != 2:
        raise UsageError(f"quantize takes a model and a folder, and got {len(line.words)} words", f"usage: {USAGE}")
    if options.scheme is None:
        raise UsageError("quantize needs --scheme", "One of w8a8, int4, fp8.")
    logs.setup("warning", role="ramify")
    text = _text(options.text)
    from ramify.engine.quantize import quantize as run

    model, out = line.words[0], Path(line.words[1])
    bars, progress = _progress()
    with bars:
        quality = run(model, out, options.scheme, text, progress)
    _report(quality, model, out)
    return 0


def _text(asked: str | None) -> str:
    path = SAMPLE if asked is None else Path(asked)
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MOST_TEXT)
    except (OSError, UnicodeDecodeError) as e:
        raise StartupError(f"--text {path}: {e}") from None


def _progress() -> tuple[AbstractContextManager[Any], Callable[[str, int, int], None]]:
    """A bar for each thing that is done; on no terminal, nothing."""
    if not sys.stderr.isatty():
        return nullcontext(), lambda what, done, total: None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars, tasks = Progress(*columns, console=Console(stderr=True)), dict[str, TaskID]()

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    return bars, advance


def _report(quality: Any, model: str, out: Path) -> None:
    from ramify.config.source import locate

    before, after = _size(locate(model)), _size(out)
    print(f"{out}: {after / MIB:,.1f} MiB of weights, {after / before:.0%} of {before / MIB:,.1f}")
    print(f"Over {quality.tokens} tokens, against the model it was made from:")
    print(f"  perplexity      {quality.before:.3f} before, {quality.after:.3f} after")
    print(f"  KL divergence   {quality.divergence:.5f} nats a token")
    print(f"  same best token {quality.agreement:.1%}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
