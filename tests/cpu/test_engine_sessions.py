"""Sessions through the Python face, on a real model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import ramify
from assets import shared
from ramify import BadRequest

GREEDY = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def engine() -> Iterator[ramify.Engine]:
    with ramify.Engine(str(shared("weights/TinyStories-656K")), threads=1) as made:
        yield made


def turn(engine: ramify.Engine, text: str, name: str, after: str | None = None, **more: Any) -> dict[str, Any]:
    params = {**GREEDY, **more}
    return engine.generate(text, params, return_logprob=True, logprob_start_len=0, session_params=place(name, after))


def place(name: str, after: str | None) -> dict[str, Any]:
    return {"id": name, "rid": after}


def prompt_of(answer: dict[str, Any]) -> list[int]:
    return [entry[1] for entry in answer["meta_info"]["input_token_logprobs"]]


def test_turns_give_what_one_prompt_gives(engine: ramify.Engine) -> None:
    """Tokens, and log probabilities of all of them, over a text stop and an end by length."""
    name = engine.open_session(1000)
    known: list[int] = []
    after = None
    for text, more in (("Once upon a time ", {}), ("The dog ", {"stop": ["a", "e"]}), ("In the end ", {})):
        answer = turn(engine, text, name, after, **more)
        prompt = prompt_of(answer)
        assert prompt[: len(known)] == known
        plain = engine.generate(
            input_ids=prompt, sampling_params={**GREEDY, **more}, return_logprob=True, logprob_start_len=0
        )
        assert plain["output_ids"] == answer["output_ids"]
        scored = [entry[0] for entry in answer["meta_info"]["input_token_logprobs"][1:]]
        again = [entry[0] for entry in plain["meta_info"]["input_token_logprobs"][1:]]
        assert scored == pytest.approx(again, abs=1e-4)
        known, after = prompt + answer["output_ids"], answer["meta_info"]["id"]
    engine.close_session(name)
    with pytest.raises(BadRequest, match="does not exist"):
        turn(engine, "x", name, after)


def test_what_is_refused(engine: ramify.Engine) -> None:
    name = engine.open_session(50, session_id="mine", timeout=5.0)
    assert name == "mine"
    with pytest.raises(BadRequest, match="same id"):
        engine.open_session(50, session_id="mine")
    for wrong in ({}, {"id": ""}, {"id": "mine", "offset": "x"}, {"id": "mine", "more": 1, "rid": 3}):
        with pytest.raises(BadRequest):
            engine.generate("x", GREEDY, session_params=wrong)
    with pytest.raises(BadRequest, match="one for each prompt"):
        engine.generate(["x", "y"], GREEDY, session_params={"id": "mine"})
    both = engine.generate(["x", "y"], GREEDY, session_params=[place("mine", None), place("mine", None)])
    assert len(both) == 2
    for capacity in (0, -1, True, "5"):
        with pytest.raises(BadRequest, match="positive number"):
            engine.open_session(capacity)  # type: ignore[arg-type]
