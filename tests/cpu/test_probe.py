"""A GPU is asked by a process of its own: here, where there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from ramify.config.gpu import PROBE, probe
from ramify.core.errors import StartupError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(StartupError, match=r"computes on CPUs alone|no NVIDIA GPU, or no driver") as caught:
        probe((0,))
    assert "the CPU computes" in caught.value.remedy


def test_whoever_asks_is_answered_in_time() -> None:
    with pytest.raises(StartupError, match="did not answer within 0 s"):
        probe((0,), patience=0.01)


def test_the_answer_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", PROBE, "0", "7"], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["torch"] == torch.__version__
