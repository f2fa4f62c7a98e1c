"""What a request may ask of memory: ordinary ones pass, and no size can be multiplied without end."""

from __future__ import annotations

from typing import Any

import pytest

from ramify.core.convert import convert
from ramify.core.errors import BadRequest
from ramify.core.params import SamplingParams
from ramify.engine.ask import MAX_LISTED, MAX_PROMPTED, Ask, Limits, SessionParams, submits
from ramify.wire.messages import Submit

LIMITS = Limits(context=131_072, vocab=1000)


def made(prompt: int = 10, n: int = 1, max_new: int | None = None, **asked: Any) -> list[Submit]:
    params = SamplingParams(n=n, max_new_tokens=max_new)
    return submits(Ask(tokens=[1] * prompt, params=params, return_logprob=True, **asked), LIMITS, 0)


@pytest.mark.parametrize("context", [512, 32_768, 131_072])
def test_twenty_best_tokens_of_a_chat_without_a_length_pass(context: int) -> None:
    ask = Ask(tokens=[1] * 10, return_logprob=True, top_logprobs=20, to_the_end=True)
    (submit,) = submits(ask, Limits(context=context, vocab=1000), 0)
    assert submit.may_shorten
    assert submit.max_new_tokens == min(context - 10, MAX_LISTED // 20)


def test_a_default_length_gives_way_and_a_length_that_was_asked_for_does_not() -> None:
    lengths = {n: made(n=n, top_logprobs=20, to_the_end=True)[0].max_new_tokens for n in (1, 4, 64)}
    assert lengths == {n: MAX_LISTED // 20 // n for n in (1, 4, 64)}
    assert made(max_new=50_000, top_logprobs=20)[0].max_new_tokens == 50_000
    with pytest.raises(BadRequest, match="20 best tokens") as refused:
        made(max_new=60_000, top_logprobs=20)
    assert refused.value.param == "top_logprobs_num"


def test_ids_count_as_best_tokens_do() -> None:
    ids = list(range(1000))
    assert made(max_new=1000, token_ids_logprob=ids)
    with pytest.raises(BadRequest, match="1000 others") as refused:
        made(max_new=1100, token_ids_logprob=ids)
    assert refused.value.param == "token_ids_logprob"
    with pytest.raises(BadRequest):
        made(max_new=600, token_ids_logprob=ids, top_logprobs=1000)


def test_scored_prompt_tokens_and_choices_count() -> None:
    assert made(prompt=50_000, max_new=1, top_logprobs=20, logprob_start=0)
    assert made(prompt=60_000, max_new=1, top_logprobs=20, logprob_start=20_000)
    for refused in ({"prompt": 60_000}, {"prompt": 30_000, "n": 2}):
        with pytest.raises(BadRequest):
            made(**refused, max_new=1, top_logprobs=20, logprob_start=0)  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        made(prompt=100_000, top_logprobs=20, logprob_start=0)  # nothing left to generate


def test_log_probabilities_alone_cost_nothing_beside() -> None:
    assert made(prompt=100, max_new=130_000)[0].max_new_tokens == 130_000


def test_many_choices_of_a_long_prompt() -> None:
    assert len(made(prompt=MAX_PROMPTED // 128, n=128, max_new=1)) == 128
    with pytest.raises(BadRequest) as refused:
        made(prompt=MAX_PROMPTED // 128 + 1, n=128, max_new=1)
    assert refused.value.param == "n"


def test_the_id_of_a_turn_is_an_id() -> None:
    assert convert({"id": "s", "rid": "r" * 256}, SessionParams, "session_params").rid == "r" * 256
    for rid in ("r" * 257, ""):
        with pytest.raises(BadRequest, match=r"session_params\.rid"):
            convert({"id": "s", "rid": rid}, SessionParams, "session_params")
