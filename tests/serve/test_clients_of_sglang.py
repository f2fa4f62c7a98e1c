"""The very requests that SGLang's own clients make: its frontend language, its benchmark; and an evaluation harness.

All of it through two API workers, so that nothing depends on which of them is asked.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server import Server, running, wait_for
from workers import through

from assets import shared

PROMPT = "Once upon a time "


@pytest.fixture(scope="module")
def two() -> Iterator[Server]:
    with running(str(shared("weights/TinyStories-656K")), "--api-workers", "2") as server:
        yield server


@pytest.fixture(params=["api-0", "api-1"])
def either(request: pytest.FixtureRequest, two: Server) -> Iterator[Server]:
    with through(two, request.param):
        yield two


# -- the frontend language ---------------------------------------------------------------------------------------------

FRAME = {"skip_special_tokens": True, "spaces_between_special_tokens": True}
GEN = {
    "max_new_tokens": 12,
    "min_new_tokens": 0,
    "n": 1,
    "stop": ["xyz"],
    "stop_token_ids": [],
    "stop_regex": [],
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "ignore_eos": False,
    "regex": None,
    "json_schema": None,
}


def test_what_it_asks_before_it_begins(either: Server) -> None:
    assert either.get("/get_model_info")["model_path"]
    assert either.request("/flush_cache", {"empty_cache": True}, method="POST")[0] == 200
    assert isinstance(either.get("/server_info"), dict)
    assert isinstance(either.get("/get_server_info"), dict)


def test_a_prefix_that_is_computed_ahead(either: Server) -> None:
    text = f"{PROMPT}there was a bird that could not sing. "
    told = either.post("/generate", {"text": text, "sampling_params": {"max_new_tokens": 0}})
    assert (told["text"], told["output_ids"]) == ("", [])
    after = either.post("/generate", {"text": text + "One day", "sampling_params": {**FRAME, **GEN}})
    assert after["meta_info"]["cached_tokens"] >= told["meta_info"]["prompt_tokens"] - 2


@pytest.mark.parametrize("stop", ["xyz", (), ["girl"]], ids=str)
def test_gen(either: Server, stop: Any) -> None:
    scored = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2, "return_text_in_logprobs": True}
    body = {"text": PROMPT, "sampling_params": {**FRAME, **GEN, "stop": list(stop) if stop != "xyz" else stop}}
    answer = either.post("/generate", {**body, **scored})
    assert answer["text"].startswith("there was a little ")
    assert ("girl" in answer["text"]) == (stop != ["girl"])
    spelled = "".join(text for _, _, text in answer["meta_info"]["output_token_logprobs"])
    assert spelled.startswith(answer["text"])
    said, at, last = "", 0, None
    for event in either.events("/generate", {**body, "stream": True}):
        said += event["text"][at:]
        at, last = len(event["text"]), event["meta_info"]
    assert said == answer["text"]
    assert last is not None
    assert last["completion_tokens"] == answer["meta_info"]["completion_tokens"]


def test_gen_with_a_type(either: Server) -> None:
    """`dtype=int` is a regex, and two more stop strings."""
    params = {**GEN, "regex": r"[-+]?[0-9]+[ \n]*", "stop": [" ", "\n"]}
    text = either.post("/generate", {"text": "How many? ", "sampling_params": {**FRAME, **params}})["text"]
    assert text.lstrip("+-").isdecimal()


@pytest.mark.parametrize("choices", [["little girl", "big dog"], ["a", "an", "any"]], ids=str)
def test_select(either: Server, choices: list[str]) -> None:
    prompt = f"{PROMPT}there was a "
    count = either.post("/generate", {"text": prompt, "sampling_params": {"max_new_tokens": 0}})["meta_info"][
        "prompt_tokens"
    ]
    body = {
        "text": [prompt + choice for choice in choices],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "return_logprob": True,
        "return_text_in_logprobs": True,
        "logprob_start_len": max(count - 2, 0),
    }
    answers = either.post("/generate", body)
    scored = [answer["meta_info"]["input_token_logprobs"] for answer in answers]
    assert [answer["meta_info"]["output_token_logprobs"] for answer in answers] == [[]] * len(choices)
    for choice, rows in zip(choices, scored, strict=True):
        assert (prompt + choice).endswith("".join(text for _, _, text in rows))
        if prompt.endswith(rows[0][2]):
            del rows[0]  # no token was healed
        assert all(isinstance(value, float) for value, _, _ in rows)
    means = [sum(value for value, _, _ in rows) / len(rows) for rows in scored]
    if "big dog" in choices:
        assert max(means) == means[0]
    alone = either.post(
        "/generate",
        {
            "input_ids": [[token for _, token, _ in rows] for rows in scored],
            "sampling_params": {"max_new_tokens": 0},
            "return_logprob": True,
        },
    )
    for rows, answer in zip(scored, alone, strict=True):
        unconditional = answer["meta_info"]["input_token_logprobs"]
        assert [token for _, token, _ in unconditional] == [token for _, token, _ in rows]
        assert unconditional[0][0] is None
        assert all(isinstance(value, float) for value, _, _ in unconditional[1:])


def test_only_minus_one_itself_means_output_alone(either: Server) -> None:
    body = {"text": PROMPT, "return_logprob": True, "logprob_start_len": -1, "sampling_params": {"max_new_tokens": 0}}
    assert either.post("/generate", body)["meta_info"]["input_token_logprobs"] == []
    del body["logprob_start_len"]
    assert len(either.post("/generate", body)["meta_info"]["input_token_logprobs"]) == 6
    some = {**body, "sampling_params": {"max_new_tokens": 2}}
    assert either.post("/generate", some)["meta_info"]["input_token_logprobs"] == []


def test_waiting_for_a_server(either: Server) -> None:
    assert either.request("/health_generate")[0] == 200


# -- the benchmark -----------------------------------------------------------------------------------------------------

HEADERS = {"X-SMG-Routing-Key": "abc", "authorization": "Bearer whatever"}


def test_what_the_benchmark_asks_of_a_server(either: Server) -> None:
    assert either.get("/v1/models")["data"][0]["id"]
    info = either.get("/model_info")
    assert info.get("tokenizer_path") or info["model_path"]
    assert either.request("/flush_cache?timeout=60", method="POST")[0] == 200
    assert "internal_states" in either.get("/server_info")
    assert either.get("/server_info")["internal_states"][0].get("avg_spec_accept_length") is None


@pytest.mark.parametrize("by", ["text", "input_ids"])
def test_the_native_benchmark(either: Server, by: str) -> None:
    prompt: Any = PROMPT if by == "text" else either.post("/v1/tokenize", {"prompt": PROMPT})["tokens"]
    body = {
        by: prompt,
        "sampling_params": {"temperature": 0.0, "max_new_tokens": 20, "ignore_eos": True, "top_p": 1.0},
        "stream": True,
        "lora_path": None,
        "return_logprob": False,
        "return_routed_experts": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "token_ids_logprob": None,
        "image_data": None,
    }
    status, headers, raw = either.request("/generate", body, headers=HEADERS)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    lines = [line for line in raw.decode().split("\n") if line.strip()]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    counts = [event["meta_info"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 20
    assert all(event["text"] for event in events)
    last = events[-1]["meta_info"]
    assert last["prompt_tokens"] == 6
    assert last["cached_tokens_details"]["device"] == last["cached_tokens"]
    whole = either.post("/generate", {**body, "stream": False})
    assert whole["text"] == events[-1]["text"]


def test_the_benchmark_of_completions(either: Server) -> None:
    body = {
        "model": either.get("/v1/models")["data"][0]["id"],
        "prompt": PROMPT,
        "temperature": 0.0,
        "best_of": 1,
        "max_tokens": 20,
        "stream": True,
        "ignore_eos": True,
        "logprobs": None,
        "stream_options": {"include_usage": True},
        "return_cached_tokens_details": True,
    }
    events = either.events("/v1/completions", body, headers=HEADERS)
    *chunks, extension, usage = events
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert usage["usage"]["completion_tokens"] == 20
    assert extension["sglext"]["cached_tokens_details"]["device"] >= 0


# -- an evaluation harness ---------------------------------------------------------------------------------------------

CONTEXTS = ["Once upon a time there was a", "One day a boy named Tim went"]
GOES_ON = [" little girl named Lily.", " purple xylophone"]


def parse(choice: dict[str, Any], context: int, cut: int | None) -> tuple[float, bool]:
    """As lm-evaluation-harness reads a continuation's log probability, and whether it is the greedy one."""
    values = choice["logprobs"]["token_logprobs"][context:cut]
    tops = choice["logprobs"]["top_logprobs"][context:cut]
    return sum(values), all(value == max(top.values()) for value, top in zip(values, tops, strict=True))


@pytest.mark.parametrize("more", [{"max_tokens": 1}, {"max_tokens": 0}], ids=str)
@pytest.mark.parametrize("warm", [False, True])
def test_loglikelihoods(either: Server, more: dict[str, int], warm: bool) -> None:
    contexts = either.post("/v1/tokenize", {"prompt": CONTEXTS})["tokens"]
    wholes = [
        [*ids, *either.post("/v1/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]]
        for ids, text in zip(contexts, GOES_ON, strict=True)
    ]
    if not warm:
        assert either.request("/flush_cache?timeout=10", method="POST")[0] == 200
    body = {"model": "default", "prompt": wholes, "temperature": 0, "logprobs": 1, "seed": 1234, "echo": True, **more}
    choices = sorted(either.post("/v1/completions", body)["choices"], key=lambda choice: choice["index"])
    native = {"input_ids": wholes, "sampling_params": {"max_new_tokens": 0}, "return_logprob": True}
    scored = either.post("/generate", {**native, "logprob_start_len": 0})
    cut = -1 if more["max_tokens"] else None
    found = []
    for choice, ids, context, reference in zip(choices, wholes, contexts, scored, strict=True):
        logprobs = choice["logprobs"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert len(logprobs[name]) == len(ids) + more["max_tokens"]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        values = [value for value, _, _ in reference["meta_info"]["input_token_logprobs"]][len(context) :]
        total, greedy = parse(choice, len(context), cut)
        assert total == pytest.approx(sum(values), abs=1e-3)
        found.append((math.exp(total / len(values)), greedy))
    assert found[0][0] > found[1][0]
    assert not found[1][1]


def test_a_greedy_continuation_is_known_as_one(either: Server) -> None:
    ids = either.post("/v1/tokenize", {"prompt": CONTEXTS[0]})["tokens"]
    params = {"temperature": 0, "max_new_tokens": 8}
    output = either.post("/generate", {"input_ids": ids, "sampling_params": params})["output_ids"]
    body = {"prompt": [[*ids, *output]], "temperature": 0, "logprobs": 1, "max_tokens": 1, "echo": True}
    (choice,) = either.post("/v1/completions", body)["choices"]
    assert parse(choice, len(ids), -1)[1]
    assert choice["text"].startswith(either.post("/v1/detokenize", {"tokens": ids})["text"])


# -- two workers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [{"rid": "long"}, {"abort_all": True}], ids=str)
def test_one_worker_aborts_what_another_serves(two: Server, order: dict[str, Any]) -> None:
    body = {"text": [PROMPT] * 2, "rid": "long", "sampling_params": {"max_new_tokens": 500, "ignore_eos": True}}
    answers: list[Any] = []
    two.request("/slow_down", {"forward_sleep_time": 0.05})
    try:
        with through(two, "api-0"):
            thread = threading.Thread(target=lambda: answers.append(two.post("/generate", body, timeout=120)))
            thread.start()
            wait_for(lambda: two.metric("num_running_reqs") == 2, 20, "the requests to run")
        with through(two, "api-1"):
            assert two.request("/flush_cache", method="POST")[0] == 400
            assert two.request("/abort_request", order)[0] == 200
        thread.join(30)
    finally:
        two.request("/slow_down", {"forward_sleep_time": None})
    assert [answer["meta_info"]["finish_reason"]["type"] for answer in answers[0]] == ["abort", "abort"]
    with through(two, "api-1"):
        assert two.request("/flush_cache?timeout=10", method="POST")[0] == 200
