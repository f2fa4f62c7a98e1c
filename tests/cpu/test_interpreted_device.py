"""Whole models over the kernels of GPUs, in Triton's interpreter: what layers hand to kernels is what these take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save
from torch import Tensor

import ramify
from ramify.ops.attention import AttentionShape
from ramify.ops.modes import OneMode
from ramify.ops.recording import Recording
from ramify.ops.staging import HostStaging

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux")
pytestmark = pytest.mark.triton

from ramify.ops.triton.attention import TritonAttention  # noqa: E402  (needs Triton)
from ramify.ops.triton.kernels import triton_kernels  # noqa: E402


class Again:
    """Captures nothing: what is to be replayed is computed again, over the same memory, as a graph would."""

    sizes = (2, 4)

    def __init__(self) -> None:
        self.replayed = 0

    def begin(self, compute: Callable[[], Tensor]) -> Future[Recording]:
        def again() -> Tensor:
            self.replayed += 1
            return compute()

        made: Future[Recording] = Future()
        made.set_result(again)
        return made

    def close(self) -> None: ...


class InterpretedPlatform:
    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.kernels = triton_kernels(invariant=True)
        self.staging, self.modes = HostStaging(), OneMode()
        self.recorder, self.capturer = None, Again()

    def attention(self, name: str, shape: AttentionShape) -> TritonAttention:
        backend = TritonAttention(shape, self.device)
        assert not backend.reasons_against(shape)
        return backend

    def prepare_thread(self) -> None: ...

    def free_bytes(self) -> int:
        return 1 << 30


@contextmanager
def engine_of(folder: Path, **settings: Any) -> Iterator[ramify.Engine]:
    small = {"dtype": "float32", "threads": 1, "max_total_tokens": 1024, "skip_tokenizer_init": True}
    given = {"attention_backend": "reference", "linear_backend": "torch", **small, **settings}
    with ramify.Engine(str(folder), **given) as engine:
        yield engine


SLOW = ("gemma3", "gemma2", "mixtral", "deepseek-v3", "llama4", "mamba2", "qwen3-next", "gpt2")
W8A8 = {"quantization": "w8a8", "linear_backend": "auto"}
WHAT: list[Any] = [("qwen3", {}), ("gpt-oss", {})]
for family in SLOW:
    WHAT.append(pytest.param(family, {}, marks=pytest.mark.slow))
WHAT.append(pytest.param("qwen3", {"page_size": 1}, marks=pytest.mark.slow))
WHAT.append(pytest.param("qwen3", W8A8, marks=pytest.mark.slow))
WHAT.append(pytest.param("mixtral", W8A8, marks=pytest.mark.slow))
WAYS = [
    {"temperature": 0, "max_new_tokens": 5, "ignore_eos": True},
    {"temperature": 0.9, "top_p": 0.8, "sampling_seed": 1, "max_new_tokens": 4, "ignore_eos": True},
    {"temperature": 0, "frequency_penalty": 0.8, "min_new_tokens": 4, "max_new_tokens": 4, "stop_token_ids": [7]},
]


@pytest.mark.parametrize(("family", "settings"), WHAT, ids=str)
def test_the_same_tokens(
    family: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(family, tmp_path)
    prompts = [[5, 9, 30, 7] * 9, [8, 9, 10], [17, 20] * 10]
    with engine_of(tmp_path, **settings) as engine:
        wanted = [each["output_ids"] for each in engine.generate(input_ids=prompts, sampling_params=WAYS)]
    platform = InterpretedPlatform()
    monkeypatch.setattr("ramify.ops.platform.make_platform", lambda *_: platform)
    with engine_of(tmp_path, chunked_prefill_size=32, **settings) as engine:
        found = [each["output_ids"] for each in engine.generate(input_ids=prompts, sampling_params=WAYS)]
    assert found == wanted
    assert platform.capturer.replayed > 0
