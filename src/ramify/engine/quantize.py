"""`ramify quantize`, without its terminal: calibrate, write, read back, compare."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ramify.config.model import read_config
from ramify.config.source import locate
from ramify.core.errors import StartupError
from ramify.engine.quality import Comparison, Quality, heat_of, log_probabilities, opened, windows_of
from ramify.models.quantize import check_source, write_quantized
from ramify.quant.write import WRITERS

Progress = Callable[[str, int, int], None]  # what is being done, done, in all
UNFINISHED = ".partial"


def quantize(model: str, out: Path, scheme: str, text: str, progress: Progress) -> Quality:
    """Write `out`, which must not exist, and say what became of the model. The first half of the text calibrates, the
    second is measured. Raises `StartupError`; then there is no `out`.
    """
    if out.exists():
        raise StartupError(f"{out} exists", "Give a folder that does not.")
    source = locate(model)
    config = read_config(source)
    check_source(source, config)
    windows = windows_of(model, text)
    heat, before = _read(model, windows, progress)
    made = out.with_name(out.name + UNFINISHED)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        write_quantized(source, config, made, WRITERS[scheme], heat, lambda n, all: progress("quantizing", n, all))
        quality = _compare(made, windows, before, progress)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    made.rename(out)
    return quality


def _read(model: str, windows: list[list[int]], progress: Progress) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """What linears read over the first half, and log probabilities of the second."""
    runner, half = opened(model), len(windows) // 2
    before: dict[int, Tensor] = {}
    with heat_of(runner) as heat:
        for at, tokens in enumerate(windows[: max(half, 1)], 1):
            log_probabilities(runner, tokens, at)
            progress("calibrating", at, len(windows))
    for at, tokens in enumerate(windows[half:], half):
        before[at] = log_probabilities(runner, tokens, len(windows) + at + 1).to(torch.bfloat16)
        progress("calibrating", at + 1, len(windows))
    return dict(heat), before


def _compare(made: Path, windows: list[list[int]], before: dict[int, Tensor], progress: Progress) -> Quality:
    runner, comparison = opened(str(made)), Comparison()
    for number, (at, expected) in enumerate(before.items(), 1):
        comparison.add(windows[at], expected.float(), log_probabilities(runner, windows[at], number))
        progress("comparing", number, len(before))
    return comparison.quality()
