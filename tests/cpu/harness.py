"""Ways to drive the doing half without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from models import reference_logits
from transformers import PreTrainedModel

from ramify.config.machine import Machine
from ramify.config.model import read_config
from ramify.config.read import overlay
from ramify.config.resolve import resolve
from ramify.config.settings import Settings
from ramify.core.params import SamplingParams
from ramify.engine.assemble import make_executor
from ramify.layers.batch import Batch
from ramify.ops.cpu.library import instruction_set
from ramify.wire.plan import Grant, Opened, Plan, Row
from ramify.worker.runner import Runner

NEAR_TIE = 1e-4
MACHINE = Machine(memory=8 << 30, cores=2, bf16=False, kernels=instruction_set())


def make_runner(folder: Path, **settings: Any) -> Runner:
    """The runner of a model in fp32, with a small pool."""
    asked = overlay(
        Settings(),
        {"model_path": str(folder), "max_total_tokens": 4096, "dtype": "float32", "threads": 1, **settings},
        "test",
    )
    executor = make_executor(resolve(asked, read_config(folder), folder, MACHINE))
    return executor._runner  # type: ignore[attr-defined]


def all_logits(runner: Runner, tokens: list[int], chunks: list[int]) -> torch.Tensor:
    """Logits at every position of one request, computed in chunks of the given sizes."""
    pages = list(range(1, len(tokens) // runner.slots.page_size + 2))
    opened = Opened(0, 1, tokens, len(tokens), 0, SamplingParams(), 0)
    grants = [Grant(0, group, pages[::-1] if group else pages) for group in range(len(runner.pool.pools))]
    if runner.pool.states is not None:
        grants.append(Grant(0, len(grants), [1 + page % 3 // 2 for page in pages]))  # now and then another slot
    found, first = [], True
    hidden, forward = [], runner._hidden

    def keeping(batch: Batch) -> torch.Tensor:
        """A step is computed once: states cannot be taken back."""
        hidden.append(forward(batch))
        return hidden[-1]

    runner._hidden = keeping  # type: ignore[assignment]
    for step, count in enumerate(chunks, 1):
        row = Row(0, 1, count, False)
        plan = Plan(step, [row], [opened] if first else [], grants if first else [], [], [])
        first = False
        with torch.inference_mode():
            forwarded = runner.forward(plan)
            found.append(runner.model.logits(hidden.pop()).float())
            runner.sample(forwarded)
    runner._hidden = forward
    return torch.cat(found)


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


def check_greedy(model: PreTrainedModel, prompt: list[int], output: list[int]) -> int:
    """Every token must be the reference's best given all tokens before it; returns how many near ties were not."""
    logits = reference_logits(model, prompt + output)[len(prompt) - 1 : -1]
    ties = 0
    for row, token in zip(logits, output, strict=True):
        if int(row.argmax()) == token:
            continue
        best = row.topk(2).values
        assert float(best[0] - best[1]) < NEAR_TIE, "a token that the reference would not have chosen"
        assert float(best[0] - row[token]) < NEAR_TIE
        ties += 1
    return ties
