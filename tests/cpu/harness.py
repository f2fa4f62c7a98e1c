"""Ways to drive the doing half without a server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from models import reference_logits
from transformers import PreTrainedModel

import ramify
from ramify.config.machine import Machine
from ramify.config.model import ModelConfig, read_config
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
NEW = 64
GREEDY = {"temperature": 0, "max_new_tokens": NEW, "ignore_eos": True}
MACHINE = Machine(memory=8 << 30, cores=2, bf16=False, kernels=instruction_set())


def make_runner(folder: Path, model: ModelConfig | None = None, **settings: Any) -> Runner:
    """The runner of a model in fp32, with a small pool. `model` is what it is read as; a family's without."""
    asked = overlay(
        Settings(),
        {"model_path": str(folder), "max_total_tokens": 4096, "dtype": "float32", "threads": 1, **settings},
        "test",
    )
    executor = make_executor(resolve(asked, model or read_config(folder), folder, MACHINE))
    return executor.runner  # type: ignore[return-value, union-attr]


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


def tokens_of(rnd: random.Random, count: int, vocab: int) -> list[int]:
    return [rnd.randrange(3, vocab) for _ in range(count)]


def engine(folder: Path, **settings: object) -> ramify.Engine:
    return ramify.Engine(str(folder), dtype="float32", threads=1, skip_tokenizer_init=True, **settings)


def scenarios(
    folder: Path, model: PreTrainedModel, **settings: object
) -> Iterator[tuple[str, list[list[int]], list[dict], ramify.Engine]]:
    """Prompts and what the engine made of them, alone, batched, chunked, with a warm cache, preempted."""
    rnd = random.Random(3)
    vocab = model.config.vocab_size
    prompts = [tokens_of(rnd, rnd.randrange(3, 120), vocab) for _ in range(16)]
    with engine(folder, **settings) as alone:
        yield "alone", prompts[:3], [alone.generate(input_ids=p, sampling_params=GREEDY) for p in prompts[:3]], alone
        warm = [p + tokens_of(rnd, 5, vocab) for p in prompts[:3]]
        outputs = [alone.generate(input_ids=p, sampling_params=GREEDY) for p in warm]
        config = alone.resolved.model
        for output, prompt in zip(outputs, prompts, strict=False):
            # The page where a prompt ends and its output begins is not shared before the output is there, and by then
            # the window may have left it: such a hit ends with the page before. So does one on a state.
            paged = config.window is not None or config.recurrent is not None
            known = (len(prompt) - (config.recurrent is not None)) // 16 * 16 if paged else len(prompt)
            assert known <= output["meta_info"]["cached_tokens"] <= len(prompt)
        yield "warm", warm, outputs, alone
    with engine(folder, **settings) as batched:
        yield "batch", prompts, batched.generate(input_ids=prompts, sampling_params=GREEDY), batched
    with engine(folder, chunked_prefill_size=7, page_size=1, **settings) as chunked:
        yield "chunked by 7", prompts, chunked.generate(input_ids=prompts, sampling_params=GREEDY), chunked
    with engine(folder, max_total_tokens=640, disable_overlap_schedule=True, **settings) as tight:
        outputs = tight.generate(input_ids=prompts[:8], sampling_params=GREEDY)
        assert sum(o["meta_info"]["num_retractions"] for o in outputs) > 0
        yield "preempted", prompts[:8], outputs, tight


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
