"""Structured output over HTTP: every kind, on every route, whatever else is in the batch."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import psutil
import pytest
from openai import OpenAI
from pydantic import BaseModel
from server import Server, running, wait_for

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "price": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "size", "price"],
    "additionalProperties": False,
}
PROMPT = "The shop sells"


@pytest.fixture(scope="module", params=[(), ("--disable-overlap-schedule",)], ids=["ahead", "in step"])
def demo(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(*request.param, "--threads", "1") as server:
        yield server


def generate(server: Server, **params: Any) -> dict[str, Any]:
    asked = {"max_new_tokens": 120, **params}
    return server.post("/generate", {"text": PROMPT, "sampling_params": asked})


def test_json_schema_on_every_route(demo: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    text = {"prompt": PROMPT, "max_tokens": 120}
    chat = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 120, "response_format": form}
    texts = [
        generate(demo, json_schema=json.dumps(SCHEMA))["text"],
        generate(demo, json_schema=SCHEMA)["text"],
        demo.post("/v1/completions", {**text, "response_format": form})["choices"][0]["text"],
        demo.post("/v1/completions", {**text, "json_schema": json.dumps(SCHEMA)})["choices"][0]["text"],
        demo.post("/v1/chat/completions", chat)["choices"][0]["message"]["content"],
        "".join(
            chunk["choices"][0]["delta"].get("content", "")
            for chunk in demo.events("/v1/chat/completions", {**chat, "stream": True})
        ),
    ]  # fmt: skip
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


def test_other_kinds(demo: Server) -> None:
    assert re.fullmatch("[a-c]{3}-[0-9]{2}", generate(demo, regex="[a-c]{3}-[0-9]{2}")["text"])
    grammar = 'root ::= "the " animal " is " ("big" | "small")\nanimal ::= "fox" | "dog"'
    assert re.fullmatch("the (fox|dog) is (big|small)", generate(demo, ebnf=grammar)["text"])
    body = {"prompt": PROMPT, "max_tokens": 100, "response_format": {"type": "json_object"}, "temperature": 0.5}
    choice = demo.post("/v1/completions", body)["choices"][0]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["text"]), dict)
    else:
        assert choice["text"].startswith("{")


OPTIONS = ["a red fox", "a blue bird", "an old dog"]
CHOICES: list[dict[str, Any]] = [{"guided_choice": OPTIONS}, {"structured_outputs": {"choice": OPTIONS}}]


@pytest.mark.parametrize("field", CHOICES, ids=lambda field: next(iter(field)))
def test_one_of_some_texts(demo: Server, field: dict[str, Any]) -> None:
    found = {generate(demo, choice=OPTIONS, temperature=2.0, sampling_seed=n)["text"] for n in range(8)}
    assert len(found) > 1
    texts = demo.post("/v1/completions", {"prompt": [PROMPT, "Here is"], "max_tokens": 20, **field})["choices"]
    chat = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20, **field}
    found |= {choice["text"] for choice in texts}
    found.add(demo.post("/v1/chat/completions", chat)["choices"][0]["message"]["content"])
    assert found <= set(OPTIONS)


SAYS_VLLM: list[tuple[dict[str, Any], str]] = [
    ({"structured_outputs": {"regex": "[a-c]{3}"}}, "[a-c]{3}"),
    ({"guided_regex": "[x-z]{3}"}, "[x-z]{3}"),
    ({"guided_grammar": 'root ::= "yes" | "no"'}, "yes|no"),
    ({"structured_outputs": {"grammar": 'root ::= "left" | "right"'}}, "left|right"),
    ({"guided_json": {"enum": [1, 22]}}, "1|22"),
    ({"structured_outputs": {"json": '{"enum": [3, 4]}'}}, "3|4"),
]


@pytest.mark.parametrize(("fields", "pattern"), SAYS_VLLM, ids=str)
def test_fields_of_vllm(demo: Server, fields: dict[str, Any], pattern: str) -> None:
    (choice,) = demo.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 20, **fields})["choices"]
    assert re.fullmatch(pattern, choice["text"])


def test_the_openai_client_parses(demo: Server) -> None:
    class Thing(BaseModel):
        size: Literal["small", "large"]
        wanted: bool

    client = OpenAI(base_url=f"{demo.url}/v1", api_key="none")
    answer = client.chat.completions.parse(
        model="concierge",
        messages=[{"role": "user", "content": "A thing, please."}],
        response_format=Thing,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, Thing)


def test_free_and_guided_rows_share_a_batch(demo: Server) -> None:
    free = {"text": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 60, "ignore_eos": True}}
    alone = demo.post("/generate", free)["text"]
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        if number % 2:
            found[number] = demo.post("/generate", free)["text"]
        else:
            found[number] = generate(demo, json_schema=SCHEMA, temperature=1.0, sampling_seed=number)["text"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number in range(8):
        if number % 2:
            assert found[number] == alone
        else:
            jsonschema.validate(json.loads(found[number]), SCHEMA)


def test_choices_log_probabilities_and_stops(demo: Server) -> None:
    params = {"json_schema": SCHEMA, "n": 3, "max_new_tokens": 120, "sampling_seed": 4}
    answers = demo.post("/generate", {"text": PROMPT, "sampling_params": params})
    for answer in answers:
        jsonschema.validate(json.loads(answer["text"]), SCHEMA)
    body = {"text": PROMPT, "sampling_params": {"regex": "ab+c", "max_new_tokens": 20}, "return_logprob": True}
    scored = demo.post("/generate", {**body, "top_logprobs_num": 2})
    assert re.fullmatch("ab+c", scored["text"]) or scored["meta_info"]["finish_reason"]["type"] == "length"
    assert len(scored["meta_info"]["output_token_logprobs"]) == scored["meta_info"]["completion_tokens"]
    stopped = generate(demo, json_schema=SCHEMA, stop='"size"')
    assert '"size"' not in stopped["text"]
    assert stopped["meta_info"]["finish_reason"]["matched"] == '"size"'


BAD = [
    ({"regex": "("}, "regex"),
    ({"regex": "a", "ebnf": 'root ::= "a"'}, "only one"),
    ({"ebnf": "root ::= nothing"}, "nothing"),
    ({"choice": "yes"}, "choice must be a list"),
    ({"choice": ["yes", 1]}, "choice must be a list"),
    ({"choice": ["yes"], "regex": "a"}, "only one"),
    ({"json_schema": "{"}, "json_schema"),
    ({"json_schema": {"type": "sometimes"}}, "type"),
    ({"regex": "(a{1,1000}){1,1000}"}, "repetition"),
    ({"json_schema": {"$ref": "http://example.com/x.json"}}, "example.com"),
]


@pytest.mark.parametrize(("params", "says"), BAD, ids=lambda value: str(value)[:30])
def test_what_cannot_be_a_grammar_is_a_400(demo: Server, params: dict[str, Any], says: str) -> None:
    status, _, answer = demo.request("/generate", {"text": PROMPT, "sampling_params": params})
    assert status == 400, answer
    assert says in answer.decode()
    assert demo.request("/health_generate")[0] == 200


def compilers(server: Server) -> list[psutil.Process]:
    """The children in which the engine tries grammars."""
    return server.children()["engine"].children()


def test_the_compiler_is_ready_before_the_first_who_wants_it() -> None:
    """Its child is started with the server, and ends with it (`running` looks for what is left)."""
    with running("--threads", "1") as server:
        wait_for(lambda: compilers(server), 30, "the child that tries grammars")
        (child,) = compilers(server)
        assert generate(server, regex="[ab]{3}")["text"]
        assert compilers(server) == [child]
    assert not child.is_running()


def test_a_compiler_dies_with_an_engine_that_is_killed() -> None:
    with running("--threads", "1") as server:
        wait_for(lambda: compilers(server), 30, "the child that tries grammars")
        (child,) = compilers(server)
        server.children()["engine"].kill()
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30, "the child to end")


def test_what_a_schema_that_is_not_strict_loses_is_in_the_log(demo: Server) -> None:
    schema = {"type": "array", "items": {"enum": ["log", 1]}, "maxItems": 2, "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "few", "schema": schema, "strict": False}}
    for _ in range(2):
        demo.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 60, "response_format": form})
    said = [line for line in demo.lines if "not strict" in line]
    assert len(said) == 1
    assert "uniqueItems" in said[0]
