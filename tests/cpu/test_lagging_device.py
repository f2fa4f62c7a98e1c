"""The worker on a device that is behind the host: the same tokens, whenever that gets around to computing them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save

import ramify
from lagging import LaggingPlatform

LENGTHS = (3, 40, 17, 90, 5, 64, 33, 12)
NEW = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lagging")
    save("qwen3", made)
    return made


@contextmanager
def engine_on(
    platform: LaggingPlatform, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[Any]:
    """An engine whose device is that of `platform`."""
    monkeypatch.setattr("ramify.ops.platform.make_platform", lambda *_: platform)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # tensors of our own know nothing of it
    with platform.lagging.here():
        engine = engine_of(folder, **settings)
    with engine:
        yield engine


def engine_of(folder: Path, **settings: Any) -> ramify.Engine:
    given = {"dtype": "float32", "threads": 1, "max_total_tokens": 4096, "skip_tokenizer_init": True, **settings}
    return ramify.Engine(str(folder), attention_backend="reference", linear_backend="torch", **given)


def requests() -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Prompts of many lengths, two with a beginning in common; and every way to sample."""
    rnd = random.Random(5)
    prompts = [[rnd.randrange(3, 200) for _ in range(length)] for length in LENGTHS]
    prompts[5][:30] = prompts[3][:30]
    ways: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.8, "sampling_seed": 3},
        {"temperature": 1.2, "top_p": 0.7, "top_k": 20, "sampling_seed": 4},
        {"temperature": 0, "frequency_penalty": 0.7, "presence_penalty": 0.3, "repetition_penalty": 1.2},
        {"temperature": 0, "logit_bias": {"7": 4.0, "9": -4.0}},
        {"temperature": 1.0, "min_p": 0.05, "sampling_seed": 5, "min_new_tokens": 20, "stop_token_ids": [11, 12, 13]},
        {"temperature": 0, "max_new_tokens": 3},
        {"temperature": 0},
    ]
    return prompts, [{"max_new_tokens": NEW, "ignore_eos": True, **way} for way in ways]


def asked(engine: Any) -> list[Any]:
    """Twice, so that the second round has beginnings in the cache."""
    prompts, ways = requests()
    found = []
    for _ in range(2):
        answers = engine.generate(
            input_ids=prompts, sampling_params=ways, return_logprob=True, logprob_start_len=2, top_logprobs_num=2
        )
        info = [answer["meta_info"] for answer in answers]
        found.append([answer["output_ids"] for answer in answers])
        found.append([each["output_token_logprobs"] for each in info])
        found.append([each["input_token_logprobs"] for each in info])
        found.append([each["output_top_logprobs"] for each in info])
        answers = engine.generate(input_ids=prompts, sampling_params=ways)
        found.append([answer["output_ids"] for answer in answers])
    return found


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[Any]:
    with engine_of(folder) as engine:
        return asked(engine)


def assert_alike(found: Any, wanted: Any) -> None:
    """The same tokens; numbers nearly, as torch sums up in an order of its own for every number of rows."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("sizes", "lag", "settings"),
    [
        ((), 0.0, {}),
        ((), 0.99, {}),
        ((1, 2, 4, 8), 0.98, {}),
        ((1, 3, 6), 0.9, {"page_size": 1, "chunked_prefill_size": 13}),
        ((8,), 0.98, {"disable_overlap_schedule": True}),
    ],
)
def test_the_same_tokens_however_late(
    folder: Path,
    wanted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, ...],
    lag: float,
    settings: dict[str, Any],
) -> None:
    platform = LaggingPlatform(sizes, seed=1, lag=lag)
    with engine_on(platform, folder, monkeypatch, **settings) as engine:
        assert_alike(asked(engine), wanted)
    assert platform.lagging.queue.asked > 1000
    if sizes:
        assert platform.capturer is not None
        assert 0 < platform.capturer.made <= len(sizes)
        assert platform.capturer.replayed > 5
