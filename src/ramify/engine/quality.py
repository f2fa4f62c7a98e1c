"""What a model makes of a text, without a server: log probabilities at every position, and what its linears read.

It is how `ramify quantize` calibrates, and how it compares a model with what has become of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify.config.read import overlay
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.core.params import SamplingParams
from ramify.engine.assemble import make_runner
from ramify.engine.build import load_model_tokenizer, prepare
from ramify.layers.linear import Linear
from ramify.ops.platform import make_platform
from ramify.wire.plan import Grant, Opened, Plan, Row
from ramify.worker.runner import Runner

WINDOW = 256  # tokens that are read together
MOST_WINDOWS = 16


@dataclass(frozen=True)
class Quality:
    """Over `tokens` tokens: perplexities, the mean Kullback-Leibler divergence of the second model's next-token
    distributions from the first one's, and how often both have the same best token.
    """

    tokens: int
    before: float
    after: float
    divergence: float
    agreement: float


def opened(model: str) -> Runner:
    """A model on its own, with room for a few windows. Its steps are computed on this thread."""
    asked = {"model_path": model, "max_total_tokens": 4 * WINDOW, "page_size": 16, "chunked_prefill_size": WINDOW}
    resolved = prepare(overlay(Settings(), asked, "quantize"))
    platform = make_platform(resolved.device, resolved.threads, resolved.dtype, resolved.linears)
    platform.prepare_thread()
    runner = make_runner(resolved, platform)
    assert isinstance(runner, Runner)
    return runner


def windows_of(model: str, text: str) -> list[list[int]]:
    """A text as tokens, in pieces that are read by themselves."""
    tokenizer = load_model_tokenizer(prepare(overlay(Settings(), {"model_path": model}, "quantize")))
    assert tokenizer is not None
    tokens = tokenizer.encode(text)
    found = [tokens[first : first + WINDOW] for first in range(0, len(tokens), WINDOW)][:MOST_WINDOWS]
    if len(tokens) < 64:
        raise StartupError(f"the text has {len(tokens)} tokens, and a measure of quality needs 64 at least")
    return found


def log_probabilities(runner: Runner, tokens: list[int], step: int) -> Tensor:
    """[tokens, vocabulary] in float32: of what follows each."""
    pages = list(range(1, -(-len(tokens) // runner.slots.page_size) + 1))
    new = Opened(0, step, tokens, len(tokens), 0, SamplingParams(), 0)
    grants = [Grant(0, group, pages) for group in range(len(runner.pool.pools))]
    plan = Plan(step, [Row(0, step, len(tokens), False)], [new], grants, [], [])
    with torch.inference_mode():
        forwarded = runner.forward(plan)
        assert forwarded.inputs is not None
        found = runner.model.logits(runner.model(forwarded.inputs.batch)).float().log_softmax(-1)
        runner.forward(Plan(step, [], [], [], [], [0]))
    return found


@contextmanager
def heat_of(runner: Runner) -> Iterator[dict[str, Tensor]]:
    """While it lasts, the squares of what linears read are added up, by their paths."""
    sums: dict[str, Tensor] = {}
    model: Any = runner.model

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            squares = given[0].float().square().sum(0)
            sums[path] = sums[path] + squares if path in sums else squares

        return look

    hooks = [
        layer.register_forward_pre_hook(watch(path))
        for path, layer in model.named_modules()
        if isinstance(layer, Linear)
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


class Comparison:
    """Collects how a model's predictions of a text differ from those of another."""

    def __init__(self) -> None:
        self._tokens = self._predictions = 0
        self._before = self._after = self._divergence = self._same = 0.0

    def add(self, tokens: list[int], before: Tensor, after: Tensor) -> None:
        """Log probabilities [tokens, vocabulary] of both."""
        following = torch.tensor(tokens[1:])[:, None]
        self._predictions += len(following)
        self._before -= float(before[:-1].gather(1, following).sum())
        self._after -= float(after[:-1].gather(1, following).sum())
        self._tokens += len(tokens)
        self._divergence += float((before.exp() * (before - after)).sum())
        self._same += float((before.argmax(1) == after.argmax(1)).sum())

    def quality(self) -> Quality:
        each = max(self._predictions, 1)
        return Quality(
            self._tokens,
            math.exp(self._before / each),
            math.exp(self._after / each),
            self._divergence / max(self._tokens, 1),
            self._same / max(self._tokens, 1),
        )
