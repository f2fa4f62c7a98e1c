"""Torch's own linears beside the packed ones: for comparison, and where somebody wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import all_logits, make_runner
from models import save

import ramify

TOKENS = [3, 17, 40, 5, 5, 61, 2, 33, 18, 9]
GREEDY = {"temperature": 0, "max_new_tokens": 12}


@pytest.mark.parametrize("family", ["qwen3", "mixtral", "deepseek-v3"])
def test_the_same_numbers_but_for_rounding(family: str, tmp_path: Path) -> None:
    folder = tmp_path
    save(family, folder)
    torchs = make_runner(folder, linear_backend="torch")
    ours, theirs = (all_logits(each, TOKENS, [4, 6]) for each in (make_runner(folder), torchs))
    assert (ours - theirs).abs().max() < 1e-5 * ours.abs().max()


def test_generates_with_recorded_steps() -> None:
    answers = []
    for backend in ("packed", "torch"):
        with ramify.Engine(linear_backend=backend, dtype="float32", max_total_tokens=2048) as engine:
            prompts = ["Once upon a time", "The dog", "A bird sang"]
            answers.append([answer["text"] for answer in engine.generate(prompts, sampling_params=GREEDY)])
    assert answers[0] == answers[1]
