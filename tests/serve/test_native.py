"""SGLang's native routes: shapes, streaming, log probabilities, aborts."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from array import array

import pytest
from server import Server, wait_for

from ramify.ops.cpu.library import instruction_set

GREEDY = {"temperature": 0, "max_new_tokens": 8}
PROMPT = "Once upon a time "


def test_one_prompt(stories: Server) -> None:
    answer = stories.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})
    assert answer["text"] == "there was a little girl named Amy. She loved to explore and "
    meta = answer["meta_info"]
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (6, 8)
    assert meta["finish_reason"] == {"type": "length", "length": 8}
    assert len(answer["output_ids"]) == 8
    assert meta["e2e_latency"] > 0
    assert set(meta) >= {"id", "cached_tokens", "weight_version", "num_retractions", "reasoning_tokens"}


def test_ids_text_put_and_default_length(stories: Server) -> None:
    by_text = stories.post("/generate", {"text": PROMPT, "sampling_params": {"temperature": 0}})
    ids = stories.post(
        "/generate",
        {"text": PROMPT, "sampling_params": {"max_new_tokens": 0}, "return_prompt_token_ids": True},
    )
    assert ids["text"] == ""
    assert ids["meta_info"]["completion_tokens"] == 0
    by_ids = stories.post(
        "/generate", {"input_ids": ids["prompt_token_ids"], "sampling_params": {"temperature": 0}}, method="PUT"
    )
    assert by_ids["text"] == by_text["text"]
    assert by_text["meta_info"]["completion_tokens"] <= 128


def test_a_list_is_answered_by_a_list(stories: Server) -> None:
    one = stories.post("/generate", {"text": [PROMPT], "sampling_params": GREEDY})
    assert isinstance(one, list)
    assert len(one) == 1
    two = stories.post(
        "/generate",
        {
            "text": [PROMPT, "One day, "],
            "rid": "batch",
            "sampling_params": [GREEDY, {"temperature": 0, "max_new_tokens": 3}],
        },
    )
    assert [a["meta_info"]["id"] for a in two] == ["batch_0", "batch_1"]
    assert [a["meta_info"]["completion_tokens"] for a in two] == [8, 3]


def test_choices_differ_and_repeat(stories: Server) -> None:
    body = {"text": PROMPT, "rid": "n", "sampling_params": {"max_new_tokens": 12, "n": 3, "sampling_seed": 5}}
    first, again = stories.post("/generate", body), stories.post("/generate", body)
    assert [a["meta_info"]["id"] for a in first] == ["n_0", "n_1", "n_2"]
    assert [a["text"] for a in first] == [a["text"] for a in again]
    assert len({a["text"] for a in first}) == 3
    two = stories.post("/generate", {**body, "text": [PROMPT, "One day, "]})
    assert len(two) == 6
    assert [a["text"] for a in two[:3]] == [a["text"] for a in first]


def test_the_stream_is_cumulative_and_adds_up(stories: Server) -> None:
    body = {"text": PROMPT, "sampling_params": GREEDY, "stream": True}
    whole = stories.post("/generate", {**body, "stream": False})
    events = stories.events("/generate", body)
    assert len(events) == 8
    for before, after in itertools.pairwise(events):
        assert after["text"].startswith(before["text"])
        assert after["output_ids"][: len(before["output_ids"])] == before["output_ids"]
    assert events[-1]["text"] == whole["text"]
    assert [e["meta_info"]["finish_reason"] is None for e in events] == [True] * 7 + [False]


def test_streams_tell_the_ids_of_the_prompt(stories: Server) -> None:
    body = {"text": PROMPT, "sampling_params": GREEDY, "return_prompt_token_ids": True}
    ids = stories.post("/generate", body)["prompt_token_ids"]
    assert len(ids) == 6
    assert all(event["prompt_token_ids"] == ids for event in stories.events("/generate", {**body, "stream": True}))


def test_a_batch_streams_with_indexes(stories: Server) -> None:
    events = stories.events("/generate", {"text": [PROMPT, "One day, "], "sampling_params": GREEDY, "stream": True})
    assert {e["index"] for e in events} == {0, 1}
    lasts = {e["index"]: e for e in events}
    assert all(e["meta_info"]["finish_reason"] for e in lasts.values())


def test_stream_headers(stories: Server) -> None:
    _, headers, _ = stories.request("/generate", {"text": PROMPT, "sampling_params": GREEDY, "stream": True})
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_stop_strings_trim_and_tell(stories: Server) -> None:
    body = {"text": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 40, "stop": ["girl", "xyz"]}}
    answer = stories.post("/generate", body)
    assert answer["text"] == "there was a little "
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": "girl"}
    kept = stories.post("/generate", {**body, "sampling_params": {**body["sampling_params"], "no_stop_trim": True}})
    assert "girl" in kept["text"]
    events = stories.events("/generate", {**body, "stream": True})
    assert events[-1]["text"] == "there was a little "
    assert not any("girl" in e["text"] for e in events)
    regex = stories.post(
        "/generate",
        {"text": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 40, "stop_regex": "na[m]+ed [A-Z]"}},
    )
    assert regex["text"] == "there was a little girl "
    assert regex["meta_info"]["finish_reason"]["matched"] == "named A"


def test_stop_tokens_and_minimum_length(stories: Server) -> None:
    plain = stories.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})
    third = plain["output_ids"][2]
    params = {**GREEDY, "stop_token_ids": [third]}
    stopped = stories.post("/generate", {"text": PROMPT, "sampling_params": params})
    assert stopped["output_ids"] == plain["output_ids"][:3]
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": third}
    longer = stories.post("/generate", {"text": PROMPT, "sampling_params": {**params, "min_new_tokens": 5}})
    assert len(longer["output_ids"]) >= 5
    assert third not in longer["output_ids"][:5]


def test_logprobs(stories: Server) -> None:
    body = {
        "text": PROMPT,
        "sampling_params": GREEDY,
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "token_ids_logprob": [5, 6],
        "return_text_in_logprobs": True,
    }
    answer = stories.post("/generate", body)
    meta = answer["meta_info"]
    assert len(meta["input_token_logprobs"]) == 6
    assert meta["input_token_logprobs"][0][0] is None
    assert [t[1] for t in meta["output_token_logprobs"]] == answer["output_ids"]
    assert "".join(t[2] for t in meta["output_token_logprobs"]) == answer["text"]
    for chosen, top in zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True):
        assert top[0][1] == chosen[1]
        assert top[0][0] == pytest.approx(chosen[0])
        assert top[0][0] >= top[1][0]
    assert meta["input_top_logprobs"][0] is None
    assert [t[1] for t in meta["output_token_ids_logprobs"][0]] == [5, 6]
    assert meta["output_token_logprobs_length"] == 8


def test_select_gets_its_logprobs_on_a_warm_cache(stories: Server) -> None:
    """What SGLang's `select` does: score endings from the prompt's last but one token on."""
    prompt, endings = "Once upon a time there was a ", ["little girl", "big dog", "car"]
    told = stories.post("/generate", {"text": prompt, "sampling_params": {"max_new_tokens": 0, "temperature": 0}})
    count = told["meta_info"]["prompt_tokens"]
    answers = stories.post(
        "/generate",
        {
            "text": [prompt + ending for ending in endings],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "return_text_in_logprobs": True,
            "logprob_start_len": max(count - 2, 0),
        },
    )
    for answer in answers:
        meta = answer["meta_info"]
        assert meta["cached_tokens"] > 0
        scored = meta["input_token_logprobs"]
        assert len(scored) == meta["prompt_tokens"] - (count - 2)
        assert all(isinstance(value, float) for value, _, _ in scored)
    assert (
        answers[0]["meta_info"]["input_token_logprobs"][-1][0] > answers[2]["meta_info"]["input_token_logprobs"][-1][0]
    )


def test_cached_tokens_are_told_and_salts_separate(stories: Server) -> None:
    text = "One day a very small mouse went to the market and bought a red ball. "
    body = {"text": text, "sampling_params": GREEDY}
    stories.post("/generate", body)
    again = stories.post("/generate", body)
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1
    salted = stories.post("/generate", {**body, "extra_key": "somebody else"})
    assert salted["meta_info"]["cached_tokens"] == 0


@pytest.mark.skipif(instruction_set() is None, reason="without compiled kernels it is refused")
def test_deterministic_requests_share_with_others_where_all_are(stories: Server) -> None:
    text = "One day a very old mouse went to the forest and found a green hat. "
    body = {"text": text, "sampling_params": GREEDY}
    plain, asked = (stories.post("/generate", {**body, "deterministic": yes}) for yes in (False, True))
    assert asked["output_ids"] == plain["output_ids"]
    assert asked["meta_info"]["cached_tokens"] == asked["meta_info"]["prompt_tokens"] - 1
    stories.post("/v1/completions", {"prompt": text, "max_tokens": 1, "deterministic": True})


def test_every_prompt_of_a_list_may_have_its_own_key_and_place(stories: Server) -> None:
    text = "One day a very large cat went to the river and caught a blue fish. "
    body = {"text": [text, text], "sampling_params": GREEDY, "rid": ["left", "right"], "priority": [1, None]}
    keys = {"extra_key": ["one tenant", None], "cache_salt": [None, "another"]}
    first = stories.post("/generate", {**body, **keys})
    assert [a["meta_info"]["id"] for a in first] == ["left", "right"]
    assert [a["meta_info"]["cached_tokens"] for a in first] == [0, 0]
    alone = [{"extra_key": "one tenant"}, {"cache_salt": "another"}, {"extra_key": "a third"}]
    found = [stories.post("/generate", {"text": text, "sampling_params": GREEDY, **key}) for key in alone]
    assert [a["meta_info"]["cached_tokens"] > 0 for a in found] == [True, True, False]
    prompts = {"prompt": [text, text], "max_tokens": 1, "extra_key": ["one tenant", "a fourth"], "rid": ["c", "d"]}
    usage = stories.post("/v1/completions", {**prompts, "return_cached_tokens_details": True})
    assert usage["id"] == "c"
    assert usage["sglext"]["cached_tokens_details"]["device"] > 0


def test_flush(stories: Server) -> None:
    stories.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})
    status, headers, body = stories.request("/flush_cache?timeout=5", method="POST")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert body.startswith(b"Cache flushed.\n")
    cold = stories.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})
    assert cold["meta_info"]["cached_tokens"] == 0


def test_information(stories: Server) -> None:
    for path in ("/model_info", "/get_model_info"):
        info = stories.get(path)
        assert info["is_generation"] is True
        assert info["architectures"] == ["LlamaForCausalLM"]
        assert info["model_path"].endswith("TinyStories-656K")
    server = stories.get("/server_info")
    assert server["internal_states"][0]["max_total_num_tokens"] == server["max_total_num_tokens"]
    assert "api_key" not in server


def test_what_clients_of_sglang_read_of_a_server(stories: Server) -> None:
    info = stories.get("/get_server_info")
    (state,) = info["internal_states"]
    assert state["memory_usage"]["token_capacity"] == info["max_total_num_tokens"]
    assert set(state["memory_usage"]) == {"weight", "kvcache", "token_capacity", "graph"}
    assert state["effective_max_running_requests_per_dp"] == info["max_running_requests"]
    assert state["last_gen_throughput"] >= 0
    assert info["max_req_input_len"] == 511
    assert (info["status"], info["frontend"]) == ("ready", "python")
    assert info["tokenizer_path"] is None or info["tokenizer_path"]
    model = stories.get("/model_info")
    assert model["tokenizer_path"] == model["model_path"]
    assert {"preferred_sampling_params", "weight_version", "load_format", "disaggregation_mode"} <= set(model)


def test_times_are_in_order(stories: Server) -> None:
    before = time.time()
    meta = stories.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})["meta_info"]
    order = ["request_received_ts", "api_server_dispatch_finish_ts", "forward_entry_time", "prefill_finished_time"]
    order += ["request_finished_ts", "response_sent_to_client_ts"]
    stamps = [meta[name] for name in order]
    assert before - 1 < stamps[0] <= stamps[-1] < time.time() + 1
    assert stamps[0] <= min(stamps[1:])
    assert stamps[2:] == sorted(stamps[2:])
    assert 0 <= meta["queue_time"] <= meta["first_token_latency"] <= meta["e2e_latency"]
    assert meta["decode_throughput"] > 0
    assert meta["cached_tokens_details"] == {"device": meta["cached_tokens"], "host": 0}
    events = stories.events("/generate", {"text": PROMPT, "sampling_params": GREEDY, "stream": True})
    assert ["e2e_latency" in event["meta_info"] for event in events] == [False] * 7 + [True]
    nothing = stories.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 0}})["meta_info"]
    assert "prefill_finished_time" not in nothing
    assert "decode_throughput" not in nothing


def test_health(stories: Server) -> None:
    for path in ("/health", "/health_generate", "/ready", "/ping"):
        status, _, body = stories.request(path)
        assert (status, body) == (200, b"")


def test_metrics_count(stories: Server) -> None:
    before = stories.metric("generation_tokens_total")
    stories.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})
    assert stories.metric("generation_tokens_total") == before + 8
    assert stories.metric("time_to_first_token_seconds_count") > 0
    assert stories.metric("num_running_reqs") == 0


def generate_in_background(server: Server, body: dict) -> tuple[threading.Thread, list]:
    answers: list = []
    thread = threading.Thread(target=lambda: answers.append(server.request("/generate", body, timeout=120)))
    thread.start()
    return thread, answers


LONG = {"text": PROMPT, "sampling_params": {"max_new_tokens": 8000, "ignore_eos": True}}


def test_abort_is_exact(slow: Server) -> None:
    """The request of that id and its numbered parts; not one whose id begins the same."""
    thread, answers = generate_in_background(slow, {**LONG, "rid": "abc"})
    wait_for(lambda: slow.metric("num_running_reqs") == 1, 20, "the request to run")
    for other in ("ab", "abcd", "abc_x"):
        assert slow.request("/abort_request", {"rid": other})[0] == 200
    time.sleep(0.3)
    assert slow.metric("num_running_reqs") == 1
    status, _, body = slow.request("/abort_request", {"rid": "abc"})
    assert (status, body) == (200, b"")
    thread.join(20)
    status, _, body = answers[0]
    assert status == 200
    assert b'"type":"abort"' in body
    assert b'"completion_tokens":0' not in body


def test_abort_of_numbered_parts_and_of_all(slow: Server) -> None:
    for order in ({"rid": "many"}, {"abort_all": True}):
        thread, answers = generate_in_background(slow, {**LONG, "text": [PROMPT, PROMPT], "rid": "many"})
        wait_for(lambda: slow.metric("num_running_reqs") == 1, 20, "the request to run")
        slow.request("/abort_request", order)
        thread.join(20)
        assert answers[0][2].count(b'"type":"abort"') == 2
    assert slow.metric("num_used_tokens") == 0


def test_the_same_id_twice_is_refused(slow: Server) -> None:
    thread, _ = generate_in_background(slow, {**LONG, "rid": "same"})
    wait_for(lambda: slow.metric("num_running_reqs") == 1, 20, "the request to run")
    status, _, body = slow.request("/generate", {**LONG, "rid": "same"})
    assert status == 400
    assert b"already running" in body
    slow.request("/abort_request", {"rid": "same"})
    thread.join(20)


def test_a_full_queue_is_503_with_retry_after(slow: Server) -> None:
    waiting = [generate_in_background(slow, {**LONG, "rid": "q0"})]
    wait_for(lambda: slow.metric("num_running_reqs") == 1, 20, "the first request to run")
    waiting += [generate_in_background(slow, {**LONG, "rid": f"q{n}"}) for n in (1, 2)]
    wait_for(lambda: slow.metric("num_queue_reqs") == 2, 20, "two requests to wait")
    for stream in (False, True):
        status, headers, body = slow.request("/generate", {**LONG, "stream": stream})
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert b"queue is full" in body
    status, headers, body = slow.request("/v1/completions", {"prompt": PROMPT})
    assert status == 503
    assert b'"type":"server_error"' in body
    slow.request("/abort_request", {"abort_all": True})
    for thread, _ in waiting:
        thread.join(20)


def test_flush_is_refused_while_requests_run(slow: Server) -> None:
    thread, _ = generate_in_background(slow, {**LONG, "rid": "busy"})
    wait_for(lambda: slow.metric("num_running_reqs") == 1, 20, "the request to run")
    assert slow.request("/flush_cache", method="POST")[0] == 400
    slow.request("/abort_request", {"rid": "busy"})
    thread.join(20)
    assert slow.request("/flush_cache?timeout=10", method="POST")[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_pages(slow: Server, stream: bool) -> None:
    import http.client
    import json
    from urllib.parse import urlparse

    connection = http.client.HTTPConnection(urlparse(slow.url).netloc)
    body = json.dumps({**LONG, "stream": stream})
    connection.request("POST", "/generate", body, {"content-type": "application/json"})
    wait_for(lambda: slow.metric("num_running_reqs") == 1, 20, "the request to run")
    connection.close()
    wait_for(lambda: slow.metric("num_used_tokens") == 0, 20, "its pages to be free")
    assert slow.metric("num_running_reqs") == 0


def test_flat_logprobs_are_the_nested_ones(stories: Server) -> None:
    body = {
        "text": PROMPT,
        "sampling_params": GREEDY,
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 3,
    }
    nested = stories.post("/generate", body)["meta_info"]
    wanted = {"return_flat_raw_top_logprobs": True, "return_flat_raw_output_top_logprobs": True}
    flat = stories.post("/generate", {**body, **wanted})["meta_info"]
    packed = stories.post("/generate", {**body, **wanted, "return_flat_raw_top_logprobs_b64": True})["meta_info"]
    for which, nulls in (("input", 1), ("output", 0)):
        rows = nested[f"{which}_top_logprobs"]
        name = f"{which}_top_logprobs"
        assert name not in flat
        assert flat[f"{name}_shape"] == packed[f"{name}_shape"] == [len(rows), 3]
        assert flat[f"{name}_null_prefix"] == nulls
        assert rows[:nulls] == [None] * nulls
        assert flat[f"{name}_val_flat"] == [value for row in rows[nulls:] for value, _, _ in row]
        assert flat[f"{name}_idx_flat"] == [token for row in rows[nulls:] for _, token, _ in row]
        values = array("f", base64.b64decode(packed[f"{name}_val_flat_b64"]))
        assert values.tolist() == pytest.approx(flat[f"{name}_val_flat"], rel=1e-6)
        assert array("i", base64.b64decode(packed[f"{name}_idx_flat_b64"])).tolist() == flat[f"{name}_idx_flat"]


def test_flat_logprobs_that_cannot_be(stories: Server) -> None:
    body = {"text": PROMPT, "sampling_params": GREEDY, "return_logprob": True, "top_logprobs_num": 1}
    for wrong in ({"return_flat_raw_top_logprobs_b64": True}, {"return_flat_raw_output_top_logprobs": True}):
        status, _, answer = stories.request("/generate", {**body, **wrong, "stream": True})
        assert status == 400
        assert next(iter(wrong)).encode() in answer
