"""A request's numbers depend on that request alone: bit for bit, whatever runs beside it and however it was cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from models import save

import ramify
from assets import BUNDLED, shared
from ramify.ops.cpu.library import load

pytestmark = pytest.mark.skipif(load() is None, reason="the kernels are not compiled in this installation")

NEW = 24
Answer = tuple[list[int], list[float]]
Settings = dict[str, Any]


HOW: list[Settings] = [
    {"dtype": "bfloat16"},
    {"dtype": "float32"},
    {"dtype": "bfloat16", "quantization": "w8a8"},
    {"dtype": "bfloat16", "quantization": "int4"},
    {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
]


WHAT = [(name, how) for name in ("bundled", "stories", "qwen3") for how in HOW]
WHAT += [(name, how) for name in ("gemma2", "gpt-oss", "deepseek-v3") for how in HOW[:2]]
WHAT += [("gemma2", HOW[4])]
WHAT += [("mamba2", HOW[1]), ("granite4-moe", HOW[0]), ("granite4-moe", HOW[1]), ("qwen3-next", HOW[0])]


@pytest.fixture(scope="module", params=WHAT, ids=lambda what: "-".join([what[0], *what[1].values()]))
def what(request: pytest.FixtureRequest) -> tuple[str, Settings]:
    return request.param


@pytest.fixture(scope="module")
def folder(what: tuple[str, Settings], tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = what[0]
    if name == "bundled":
        return BUNDLED
    if name == "stories":
        return shared("weights/TinyStories-656K")
    made = tmp_path_factory.mktemp(name)
    save(name, made)
    return made


@pytest.fixture(scope="module")
def how(what: tuple[str, Settings]) -> Settings:
    return dict(what[1])


def engine(folder: Path, how: Settings, **settings: Any) -> ramify.Engine:
    given = {"skip_tokenizer_init": True, "max_total_tokens": 8192, "threads": 2, **settings}
    return ramify.Engine(str(folder), context_length=448, **how, **given)


def prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    rnd = random.Random(seed)
    return [[rnd.randrange(3, 200) for _ in range(length + (n * 7) % 40)] for n in range(count)]


def ask(made: ramify.Engine, ids: list[list[int]], new: int = NEW, **more: Any) -> list[Answer]:
    params = {"temperature": 0, "max_new_tokens": new, "ignore_eos": True, **more}
    answers = made.generate(input_ids=ids, sampling_params=params, return_logprob=True)
    return [
        (
            [entry[1] for entry in a["meta_info"]["output_token_logprobs"]],
            [e[0] for e in a["meta_info"]["output_token_logprobs"]],
        )
        for a in answers
    ]


@pytest.fixture(scope="module")
def alone(folder: Path, how: Settings) -> Iterator[tuple[ramify.Engine, list[list[int]], list[Answer]]]:
    """Each prompt by itself, on a cold cache."""
    asked = prompts(33, 90)
    with engine(folder, how) as made:
        assert made.get_server_info()["batch_invariance"] == "yes"
        found = []
        for ids in asked:
            made.flush_cache()
            found += ask(made, [ids])
        yield made, asked, found


@pytest.mark.parametrize("size", [2, 3, 8, 33])
def test_in_a_batch(alone: tuple[ramify.Engine, list[list[int]], list[Answer]], size: int) -> None:
    made, asked, found = alone
    made.flush_cache()
    assert ask(made, asked[:size]) == found[:size]


def test_warm_and_partly_warm(alone: tuple[ramify.Engine, list[list[int]], list[Answer]]) -> None:
    made, asked, found = alone
    made.flush_cache()
    ask(made, [[*ids[: 17 * (n % 6)], 5] for n, ids in enumerate(asked)], new=1)
    assert ask(made, asked) == found
    assert ask(made, asked) == found


def test_beside_long_prompts(alone: tuple[ramify.Engine, list[list[int]], list[Answer]]) -> None:
    made, asked, found = alone
    made.flush_cache()
    answers = ask(made, [asked[0], *prompts(3, 350, seed=9), asked[1]])
    assert [answers[0], answers[-1]] == found[:2]


def test_decoded_as_prefilled(alone: tuple[ramify.Engine, list[list[int]], list[Answer]]) -> None:
    """What was generated token by token, given as a prompt, has the same probabilities."""
    made, asked, found = alone
    made.flush_cache()
    for ids, (tokens, values) in zip(asked[:4], found[:4], strict=True):
        params = {"temperature": 0, "max_new_tokens": 1}
        whole = made.generate(
            input_ids=ids + tokens, sampling_params=params, return_logprob=True, logprob_start_len=len(ids)
        )
        scored = [entry[0] for entry in whole["meta_info"]["input_token_logprobs"]]
        assert scored[-len(values) :] == values


@pytest.mark.parametrize(
    "settings",
    [
        {"chunked_prefill_size": 64},
        {"chunked_prefill_size": 100},
        {"disable_overlap_schedule": True},
        {"page_size": 1},
        {"threads": 1},
        {"max_total_tokens": 640},
        {"disable_radix_cache": True},
        {"mamba_track_interval": 16, "max_mamba_cache_size": 5},
    ],
    ids=str,
)
def test_under_other_settings(
    folder: Path, how: Settings, alone: tuple[ramify.Engine, list[list[int]], list[Answer]], settings: Settings
) -> None:
    """640 tokens are too few for all at once: requests are pushed out and computed again."""
    _, asked, found = alone
    with engine(folder, how, **settings) as made:
        assert ask(made, asked[:12]) == found[:12]


def test_at_a_temperature(alone: tuple[ramify.Engine, list[list[int]], list[Answer]]) -> None:
    made, asked, _ = alone
    made.flush_cache()
    once = [ask(made, [ids], temperature=1.0, sampling_seed=n)[0] for n, ids in enumerate(asked[:6])]
    made.flush_cache()
    params = [{"temperature": 1.0, "max_new_tokens": NEW, "ignore_eos": True, "sampling_seed": n} for n in range(6)]
    together = made.generate(input_ids=asked[:6], sampling_params=params, return_logprob=True)
    assert [[e[1] for e in a["meta_info"]["output_token_logprobs"]] for a in together] == [tokens for tokens, _ in once]
