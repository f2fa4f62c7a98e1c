"""Prefixes of models that keep a state: a hit saves what it says, and changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from models import save

import ramify
from ramify.ops.cpu.library import load

MODELS = ["mamba2", "granite4-moe", "qwen3-next"]
GREEDY = {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    save(request.param, made)
    return made


def engine(folder: Path, **settings: Any) -> ramify.Engine:
    given = {"dtype": "float32", "threads": 1, "skip_tokenizer_init": True, "mamba_track_interval": 64, **settings}
    return ramify.Engine(str(folder), context_length=512, **given)


@pytest.fixture(scope="module")
def made(folder: Path) -> Iterator[ramify.Engine]:
    with engine(folder) as one:
        yield one


def ask(made: ramify.Engine, prompt: list[int]) -> tuple[list[int], int, int]:
    """(output, tokens that the cache had, tokens that were computed)."""
    counts = made._loop.scheduler.counts
    before = counts.computed_tokens
    answer = made.generate(input_ids=prompt, sampling_params=GREEDY)
    return answer["output_ids"], answer["meta_info"]["cached_tokens"], counts.computed_tokens - before


def tokens(count: int, seed: int) -> list[int]:
    rnd = random.Random(seed)
    return [rnd.randrange(3, 200) for _ in range(count)]


def test_a_conversation_goes_on_from_its_last_state(made: ramify.Engine) -> None:
    first = tokens(150, 1)
    said, cached, computed = ask(made, first)
    assert (cached, computed) == (0, 150 + 39)
    second = [*first, *said, *tokens(20, 2)]
    again, cached, computed = ask(made, second)
    assert cached == 144, "the last boundary of the first prompt; 128 is older, and 192 was never reached"
    assert computed == len(second) - 144 + 39
    made.flush_cache()
    fresh, cached, _ = ask(made, second)
    assert (fresh, cached) == (again, 0)


def test_states_are_kept_while_a_text_is_written(made: ramify.Engine) -> None:
    first = tokens(180, 3)
    said, _, _ = ask(made, first)
    longer = [*first, *said, 7]
    again, cached, _ = ask(made, longer)
    assert cached == 192, "three times the interval, of which the last was reached by writing"
    made.flush_cache()
    assert ask(made, longer)[0] == again


def test_a_way_that_parts_is_remembered_where_it_parts(made: ramify.Engine) -> None:
    """The second reads pages of the first whose states are gone, and computes the states alone once more."""
    common = tokens(120, 4)
    ask(made, [*common, *tokens(50, 5)])
    outputs = [ask(made, [*common, *tokens(50, seed)]) for seed in (6, 7)]
    assert [cached for _, cached, _ in outputs] == [64, 112]
    made.flush_cache()
    for (output, _, _), seed in zip(outputs, (6, 7), strict=True):
        fresh = ask(made, [*common, *tokens(50, seed)])[0]
        made.flush_cache()
        assert output == fresh or load() is None


def test_turns_of_a_session_go_on_from_a_state(made: ramify.Engine) -> None:
    made.flush_cache()
    name, known, after = made.open_session(500), tokens(70, 8), None
    for number in range(3):
        new = known if after is None else tokens(30, 9 + number)
        answer = made.generate(input_ids=new, sampling_params=GREEDY, session_params={"id": name, "rid": after})
        known = known if after is None else [*known, *new]
        assert (answer["meta_info"]["cached_tokens"] > 0) == (after is not None)
        known, after = [*known, *answer["output_ids"]], answer["meta_info"]["id"]
        with_it = answer["output_ids"]
        assert ask(made, known[: -len(with_it)])[0] == with_it or load() is None
    made.close_session(name)


def test_few_slots_are_enough(folder: Path, made: ramify.Engine) -> None:
    """Two: one request at a time, in any number."""
    prompts = [tokens(60 + 7 * n, n) for n in range(6)]
    wanted = [ask(made, prompt)[0] for prompt in prompts]
    with engine(folder, max_mamba_cache_size=2) as scarce:
        outputs = scarce.generate(input_ids=prompts, sampling_params=GREEDY)
        assert [output["output_ids"] for output in outputs] == wanted or load() is None
        assert not scarce._loop.scheduler.ledger.check()
