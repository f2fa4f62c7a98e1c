"""What bad input gets: a clear error in the shape of its route, and a server that goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import pytest
from server import Server

PROMPT = "Once upon a time "
OK = {"max_new_tokens": 2}


@pytest.fixture(autouse=True)
def goes_on(stories: Server) -> Iterator[None]:
    """After every bad request a good one is answered, by the same processes."""
    before = {role: child.pid for role, child in stories.children().items()}
    yield
    assert stories.post("/generate", {"text": PROMPT, "sampling_params": OK})["text"]
    assert {role: child.pid for role, child in stories.children().items()} == before
    assert stories.metric("num_running_reqs") == 0


def sampling(**params: Any) -> dict[str, Any]:
    return {"text": PROMPT, "sampling_params": {**OK, **params}}


NATIVE: list[tuple[str, Any, str]] = [
    ("nothing", {}, "exactly one of text, input_ids"),
    ("both", {"text": "a", "input_ids": [1]}, "exactly one of text, input_ids"),
    ("empty list of texts", {"text": []}, "text is an empty list"),
    ("empty ids", {"input_ids": []}, "input_ids is an empty list"),
    ("empty ids in a batch", {"input_ids": [[1], []]}, "the prompt is empty"),
    ("negative id", {"input_ids": [1, -1]}, "-1 is not a token id"),
    ("id beyond the vocabulary", {"input_ids": [1, 2048]}, "2048 is not a token id"),
    ("huge id", {"input_ids": [10**30]}, "input_ids"),
    ("float id", {"input_ids": [1.5]}, "input_ids"),
    ("boolean id", {"input_ids": [True]}, "input_ids"),
    ("string ids", {"input_ids": ["1"]}, "input_ids"),
    ("mixed ids", {"input_ids": [[1], 2]}, "mixes different kinds"),
    ("text is a number", {"text": 3}, "text"),
    ("text is a boolean", {"text": True}, "text"),
    ("texts of numbers", {"text": [1, 2]}, "text"),
    ("prompt too long", {"text": "one " * 2000}, "longer than the model's context length"),
    ("ids too long", {"input_ids": [5] * 512}, "longer than the model's context length"),
    ("output too long", sampling(max_new_tokens=600), "maximum context length"),
    ("unknown sampling key", sampling(foo=1), "unknown key 'foo'"),
    ("temperature is a string", sampling(temperature="1"), "temperature"),
    ("temperature is a boolean", sampling(temperature=True), "temperature"),
    ("temperature is negative", sampling(temperature=-0.5), "temperature"),
    ("top_p is 0", sampling(top_p=0), "top_p"),
    ("top_p over 1", sampling(top_p=1.5), "top_p"),
    ("top_k is 0", sampling(top_k=0), "top_k"),
    ("top_k is -2", sampling(top_k=-2), "top_k"),
    ("top_k is a float", sampling(top_k=2.5), "top_k"),
    ("min_p over 1", sampling(min_p=2), "min_p"),
    ("penalty over 2", sampling(frequency_penalty=2.5), "frequency_penalty"),
    ("repetition penalty 0", sampling(repetition_penalty=0), "repetition_penalty"),
    ("negative length", sampling(max_new_tokens=-1), "max_new_tokens"),
    ("length is a float", sampling(max_new_tokens=1.5), "max_new_tokens"),
    ("minimum over maximum", sampling(min_new_tokens=5), "min_new_tokens"),
    ("n is 0", sampling(n=0), "n"),
    ("n is huge", sampling(n=10**9), "n"),
    ("seed over 64 bits", sampling(sampling_seed=2**70), "sampling_seed"),
    ("100,000 stop strings", sampling(stop=["x"] * 100_000), "at most 32 entries"),
    ("empty stop string", sampling(stop=["a", ""]), "empty string"),
    ("stop is a number", sampling(stop=3), "stop"),
    ("long stop string", sampling(stop="x" * 5000), "longer than"),
    ("invalid regex", sampling(stop_regex="("), "not a valid RE2 expression"),
    ("regex with a backreference", sampling(stop_regex=r"(a)\1"), "not a valid RE2 expression"),
    ("long regex", sampling(stop_regex="a" * 300), "longer than"),
    ("regex that explodes", sampling(stop_regex="(((a{100}){100}){100})"), "not a valid RE2 expression"),
    ("stop token id out of range", sampling(stop_token_ids=[99999]), "stop_token_ids"),
    ("bias of an unknown token", sampling(logit_bias={"99999": 1}), "logit_bias"),
    ("bias key is no number", sampling(logit_bias={"x": 1}), "logit_bias"),
    ("bias is a string", sampling(logit_bias={"5": "1"}), "logit_bias"),
    ("beam search", sampling(beam_width=2), "beam search"),
    ("parameters are a list for one", {"text": PROMPT, "sampling_params": [OK, OK]}, "sampling_params has 2 entries"),
    ("parameters are a string", {"text": PROMPT, "sampling_params": "x"}, "sampling_params"),
    ("logprob start beyond", {"text": PROMPT, "return_logprob": True, "logprob_start_len": 99}, "logprob_start_len"),
    ("logprob start below", {"text": PROMPT, "return_logprob": True, "logprob_start_len": -5}, "logprob_start_len"),
    ("too many top logprobs", {"text": PROMPT, "return_logprob": True, "top_logprobs_num": 10**6}, "top_logprobs_num"),
    (
        "logprob ids out of range",
        {"text": PROMPT, "return_logprob": True, "token_ids_logprob": [-3]},
        "token_ids_logprob",
    ),
    ("images", {"text": PROMPT, "image_data": "abc"}, "image_data needs images"),
    ("adapters", {"text": PROMPT, "lora_path": "x"}, "This server has no adapters (lora_path)"),
    ("rid is a number", {"text": PROMPT, "rid": 3}, "rid"),
    ("rid is empty", {"text": PROMPT, "rid": ""}, "rid"),
    ("rid has a line break", {"text": PROMPT, "rid": "a\nb"}, "rid"),
    ("rid is long", {"text": PROMPT, "rid": "x" * 1000}, "rid"),
    ("rids repeat", {"text": [PROMPT, PROMPT], "rid": ["a", "a"]}, "rid"),
    ("stream is a string", {"text": PROMPT, "stream": "yes"}, "stream"),
    ("priority is a float", {"text": PROMPT, "priority": 1.5}, "priority"),
    ("salt is a number", {"text": PROMPT, "extra_key": 5}, "extra_key"),
    ("too few salts", {"text": [PROMPT, PROMPT], "extra_key": ["a"]}, "extra_key has 1 entries for 2 prompts"),
    ("a salt is a number", {"text": [PROMPT, PROMPT], "cache_salt": ["a", 5]}, "cache_salt"),
    ("too many priorities", {"text": PROMPT, "priority": [1, 2]}, "priority has 2 entries for 1 prompts"),
    ("a priority is a string", {"text": [PROMPT], "priority": ["1"]}, "priority"),
    ("too many prompts", {"text": ["a"] * 2000}, "at most 1024 prompts"),
]


@pytest.mark.parametrize(("body", "says"), [case[1:] for case in NATIVE], ids=[case[0] for case in NATIVE])
def test_native(stories: Server, body: Any, says: str) -> None:
    status, _, answer = stories.request("/generate", body)
    assert status == 400, answer
    error = json.loads(answer)["error"]
    assert says in (error if isinstance(error, str) else error["message"])


def test_an_unknown_sampling_key_is_a_bare_string(stories: Server) -> None:
    """As SGLang answers where its JSON contract is broken."""
    _, _, answer = stories.request("/generate", sampling(foo=1))
    assert isinstance(json.loads(answer)["error"], str)


OPENAI: list[tuple[str, Any, str, str | None]] = [
    ("no prompt", {}, "prompt is required", "prompt"),
    ("empty list", {"prompt": []}, "prompt is an empty list", "prompt"),
    ("prompt is an object", {"prompt": {}}, "prompt", "prompt"),
    ("max_tokens is a string", {"prompt": "a", "max_tokens": "5"}, "max_tokens", "max_tokens"),
    ("negative max_tokens", {"prompt": "a", "max_tokens": -5}, "max_tokens", "max_tokens"),
    ("logprobs too many", {"prompt": "a", "logprobs": 100}, "logprobs", "logprobs"),
    ("suffix", {"prompt": "a", "suffix": "b"}, "suffix needs", "suffix"),
    ("17 stops", {"prompt": "a", "stop": ["x"] * 17}, "at most 16 stop strings", "stop"),
    ("temperature NaN as a string", {"prompt": "a", "temperature": "NaN"}, "temperature", "temperature"),
]


@pytest.mark.parametrize(("body", "says", "param"), [case[1:] for case in OPENAI], ids=[case[0] for case in OPENAI])
def test_openai(stories: Server, body: Any, says: str, param: str | None) -> None:
    status, _, answer = stories.request("/v1/completions", body)
    error = json.loads(answer)["error"]
    assert status == 400
    assert says in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("text", ["", "   ", "\x00", "�", "a\x00b", "\u202e", "<|im_start|><s></s>"])
def test_odd_texts_are_texts(stories: Server, text: str) -> None:
    status, _, answer = stories.request("/generate", {"text": text, "sampling_params": OK})
    assert status in (200, 400)
    if text == "" and status == 400:
        assert b"empty" in answer


RAW: list[tuple[str, bytes, int]] = [
    ("not JSON", b"{", 400),
    ("empty", b"", 400),
    ("a list", b"[]", 400),
    ("a string", b'"x"', 400),
    ("null", b"null", 400),
    ("NaN", b'{"text": "a", "sampling_params": {"temperature": NaN}}', 400),
    ("infinity", b'{"text": "a", "sampling_params": {"temperature": Infinity}}', 400),
    ("a number that overflows", b'{"text": "a", "sampling_params": {"temperature": 1e999}}', 400),
    ("invalid UTF-8", b'{"text": "\xff\xfe"}', 400),
    ("half a surrogate", b'{"text": "\\ud800"}', 400),
    ("deep lists", b"[" * 100_000, 400),
    ("deep objects", b'{"a":' * 100_000, 400),
    ("deep sampling params", b'{"text": "a", "sampling_params": {"stop": ' + b"[" * 5000 + b"]" * 5000 + b"}}", 400),
    ("trailing text", b'{"text": "a"} x', 400),
]


@pytest.mark.parametrize(("raw", "status"), [case[1:] for case in RAW], ids=[case[0] for case in RAW])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_raw_bodies(stories: Server, path: str, raw: bytes, status: int) -> None:
    found, _, answer = stories.request(path, raw=raw)
    assert found == status, answer
    error = json.loads(answer)["error"]
    assert ("type" in error) == path.startswith("/v1/")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_wrong_content_type(stories: Server, kind: str) -> None:
    status, _, answer = stories.request("/generate", raw=b'{"text": "a"}', headers={"content-type": kind})
    assert status == 415
    assert b"application/json" in answer


def test_a_body_over_the_limit(stories: Server) -> None:
    status, _, _ = stories.request("/generate", raw=b'{"text": "' + b"a" * (33 << 20) + b'"}')
    assert status == 413


def talk(server: Server, data: bytes, wait: float = 10.0) -> bytes:
    """Send raw bytes and read until the server closes or is silent."""
    host, port = urlparse(server.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        received = b""
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                received += chunk
                if b"\r\n\r\n" in received:
                    break
        except (ConnectionError, TimeoutError):
            pass
        return received


def test_a_chunked_body_over_the_limit_is_cut_off(stories: Server) -> None:
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    assert b"413" in talk(stories, head + chunk * 34).split(b"\r\n")[0]


def test_many_tiny_chunks(stories: Server) -> None:
    body = json.dumps(sampling()).encode()
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    padding = b"1\r\n \r\n" * 20_000
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body)
    assert b"200" in talk(stories, head + padding + chunks + b"0\r\n\r\n").split(b"\r\n")[0]


def test_endless_headers(stories: Server) -> None:
    assert b"431" in talk(stories, b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-a: " + b"a" * 200_000)
    many = b"".join(b"x-%d: 1\r\n" % n for n in range(500))
    assert b"431" in talk(stories, b"GET /health HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n").split(b"\r\n")[0]


def test_garbage_on_the_port(stories: Server) -> None:
    talk(stories, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), wait=2)
    talk(stories, b"\x00" * 1000, wait=2)


def test_a_catastrophic_regex_is_just_a_regex(stories: Server) -> None:
    answer = stories.post(
        "/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 64, "stop_regex": "(a+)+$x"}}
    )
    assert answer["meta_info"]["completion_tokens"] > 0


def test_routes_that_do_not_exist(stories: Server) -> None:
    status, _, answer = stories.request("/v1/nothing")
    assert (status, json.loads(answer)["error"]["type"]) == (404, "not_found_error")
    status, _, answer = stories.request("/generate")
    assert status == 405
    status, _, _ = stories.request("/../../etc/passwd")
    assert status == 404


def test_errors_do_not_show_paths_or_addresses() -> None:
    from ramify.server.errors import scrub

    shown = scrub("cannot open /usr/lib/secret/file.py: <object at 0x7f00aa> use /v1/completions")
    assert shown == "cannot open <path>: <object> use /v1/completions"
