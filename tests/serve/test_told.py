"""Hidden states over HTTP, and what a server says that was started to tell of its inside, through two API workers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from server import Server, running

from assets import shared

PROMPT = "Once upon a time "
GREEDY = {"temperature": 0, "max_new_tokens": 6}
TEMPLATE = "{%- for m in messages %}{{ m['content'] }}{% endfor %}"
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    template = tmp_path_factory.mktemp("template") / "plain.jinja"
    template.write_text(TEMPLATE)
    flags = ("--enable-return-hidden-states", "--incremental-streaming-output", "--api-workers", "2")
    with running(str(shared("weights/TinyStories-656K")), "--chat-template", str(template), *flags) as server:
        yield server


def lengths(states: list[Any]) -> list[Any]:
    return [[len(row) for row in part] if isinstance(part[0], list) else len(part) for part in states]


def test_generate_tells_hidden_states(told: Server) -> None:
    body = {"text": PROMPT, "sampling_params": GREEDY, "return_hidden_states": True}
    for _ in range(4):  # by either worker, from a cold cache and a warm one
        meta = told.post("/generate", body)["meta_info"]
        width = len(meta["hidden_states"][0][0])
        assert lengths(meta["hidden_states"]) == [[width] * meta["prompt_tokens"]] + [width] * 5
    asked = [True, "last", False]
    several = told.post("/generate", {**body, "text": [PROMPT] * 3, "return_hidden_states": asked})
    assert several[1]["meta_info"]["hidden_states"] == [pytest.approx(meta["hidden_states"][-1], abs=1e-4)]
    assert "hidden_states" not in several[2]["meta_info"]
    events = told.events("/generate", {**body, "stream": True})
    assert [("hidden_states" in event["meta_info"]) for event in events] == [False] * 5 + [True]
    assert lengths(events[-1]["meta_info"]["hidden_states"]) == lengths(meta["hidden_states"])


def test_openai_routes_tell_the_last(told: Server) -> None:
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "return_hidden_states": True}
    native = {"text": PROMPT, "sampling_params": GREEDY, "return_hidden_states": "last"}
    (last,) = told.post("/generate", native)["meta_info"]["hidden_states"]
    same = pytest.approx(last, abs=1e-4)
    (choice,) = told.post("/v1/completions", body)["choices"]
    assert choice["hidden_states"] == same
    (choice,) = told.post("/v1/completions", {**body, "return_hidden_states": "last"})["choices"]
    assert choice["hidden_states"] == [same]
    events = told.events("/v1/completions", {**body, "stream": True})
    assert [e["choices"][0]["hidden_states"] for e in events if "hidden_states" in e["choices"][0]] == [same]
    chat = {"messages": CHAT, "max_tokens": 6, "temperature": 0, "return_hidden_states": True}
    (choice,) = told.post("/v1/chat/completions", chat)["choices"]
    assert len(choice["hidden_states"]) == len(last)
    events = told.events("/v1/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}})
    *_, finish, states, usage = events
    assert finish["choices"][0]["finish_reason"] == "length"
    assert states["choices"][0]["delta"]["hidden_states"] == pytest.approx(choice["hidden_states"], abs=1e-4)
    assert usage["choices"] == []


def test_a_text_stop_takes_states_back(told: Server) -> None:
    params = {"temperature": 0, "max_new_tokens": 40, "stop": ["girl"]}
    whole = told.post("/generate", {"text": PROMPT, "sampling_params": params, "return_hidden_states": True})
    states, meta = whole["meta_info"]["hidden_states"], whole["meta_info"]
    assert len(states) == meta["completion_tokens"] < 40
    last = told.post("/generate", {"text": PROMPT, "sampling_params": params, "return_hidden_states": "last"})
    assert last["meta_info"]["hidden_states"] == [pytest.approx(states[-1], abs=1e-4)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": PROMPT, "return_hidden_states": True}),
        ("/generate", {"text": [PROMPT], "return_hidden_states": ["last"]}),
        ("/v1/completions", {"prompt": PROMPT, "return_hidden_states": True}),
    ],
)
def test_without_the_flag_they_are_refused_by_name(stories: Server, path: str, body: dict[str, Any]) -> None:
    status, _, answer = stories.request(path, body)
    assert status == 400
    assert b"--enable-return-hidden-states" in answer


@pytest.mark.parametrize("value", ["first", 1, [True, True]])
def test_what_nobody_can_ask(told: Server, value: Any) -> None:
    status, _, answer = told.request("/generate", {"text": PROMPT, "return_hidden_states": value})
    assert status == 400
    assert "return_hidden_states" in str(json.loads(answer)["error"])


def test_increments_add_up(told: Server) -> None:
    """Text, ids and lists of log probabilities are new in each event; what is said of the prompt comes once."""
    body = {
        "text": PROMPT,
        "sampling_params": GREEDY,
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "token_ids_logprob": [5],
        "return_prompt_token_ids": True,
    }
    whole, events = told.post("/generate", body), told.events("/generate", {**body, "stream": True})
    assert len(events) == 6
    assert "".join(event["text"] for event in events) == whole["text"]
    assert [i for event in events for i in event["output_ids"]] == whole["output_ids"]
    assert events[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    for name in ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs"):
        rows = list(itertools.chain(*(event["meta_info"][name] for event in events)))
        assert [row[0][1] if isinstance(row[0], list) else row[1] for row in rows] == [
            row[0][1] if isinstance(row[0], list) else row[1] for row in whole["meta_info"][name]
        ]
    assert events[0]["meta_info"]["input_token_logprobs"][0][0] is None
    assert not any(e["meta_info"]["input_token_logprobs"] or "prompt_token_ids" in e for e in events[1:])
    assert [event["meta_info"]["completion_tokens"] for event in events] == [1, 2, 3, 4, 5, 6]


# -- vectors as prompts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedding() -> torch.Tensor:
    return load_file(str(shared("weights/TinyStories-656K/model.safetensors")))["lm_head.weight"].float()


def test_vectors_of_tokens_give_what_tokens_give(told: Server, embedding: torch.Tensor) -> None:
    ids = told.post("/v1/tokenize", {"prompt": PROMPT})["tokens"]
    vectors = embedding[ids].tolist()
    by_ids = told.post("/generate", {"input_ids": ids, "sampling_params": GREEDY})
    body = {"input_embeds": vectors, "sampling_params": GREEDY}
    one = told.post("/generate", {**body, "return_prompt_token_ids": True})
    assert "prompt_token_ids" not in one
    assert one["output_ids"] == by_ids["output_ids"]
    assert one["meta_info"]["prompt_tokens"] == len(ids)
    several = told.post("/generate", {"input_embeds": [vectors, vectors[:4]], "sampling_params": {**GREEDY, "n": 2}})
    assert [answer["output_ids"] for answer in several[:2]] == [by_ids["output_ids"]] * 2
    assert len(several) == 4
    events = told.events("/generate", {**body, "stream": True})
    assert "".join(event["text"] for event in events) == one["text"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"input_embeds": [[0.5] * 7]}, "vectors of 128 numbers"),
        ({"input_embeds": [[0.5] * 128, [0.5] * 127]}, "vectors of 128 numbers"),
        ({"input_embeds": []}, "empty list"),
        ({"input_embeds": [[]]}, "vectors of 128 numbers"),
        ({"input_embeds": ["x"]}, "input_embeds"),
        ({"input_embeds": [[1e39] * 128]}, "not finite"),
        ({"input_embeds": [[True] * 128]}, "input_embeds"),
        ({"input_embeds": [[0.5] * 128] * 600}, "longer than the model's context"),
        ({"input_embeds": [[0.5] * 128], "text": PROMPT}, "exactly one of"),
        ({"input_embeds": [[0.5] * 128], "return_logprob": True, "logprob_start_len": 0}, "no tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_vectors_that_are_refused(told: Server, more: dict[str, Any], says: str) -> None:
    status, _, answer = told.request("/generate", more)
    assert status == 400, answer
    assert says in str(json.loads(answer)["error"])
    assert told.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})["text"]
