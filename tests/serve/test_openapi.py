"""The document that describes the API is true: it is valid, complete, and what really comes back matches it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from server import Server

from ramify.server.openapi import document
from ramify.server.routes import ROUTES

PROMPT = "Once upon a time "
DOCUMENT = document(ROUTES)
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 4}, "return_logprob": True}),
    ("/generate", {"text": [PROMPT, "One day"], "sampling_params": {"max_new_tokens": 4, "n": 2}}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "logprobs": 2, "echo": True}),
    ("/v1/completions", {"prompt": [PROMPT, "One day"], "n": 2, "return_token_ids": True}),
    ("/v1/tokenize", {"prompt": PROMPT}),
    ("/v1/detokenize", {"tokens": [5, 6, 7]}),
    ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [5, 6], "return_token_logprobs": True}),
]


def check(schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_valid() -> None:
    validate(DOCUMENT)


def test_complete() -> None:
    for route in ROUTES:
        for method in route.methods:
            operation = DOCUMENT["paths"][route.path][method.lower()]
            assert len(operation["summary"]) > 10, route.path
            assert ("security" in operation) == (route.auth != "open")
        if route.takes is not None:
            schema = DOCUMENT["components"]["schemas"][route.takes.struct.__name__]
            for name, standing, _ in route.takes.table():
                assert name in schema["x-refused" if standing == "refused" else "properties"]


def test_what_is_served_is_the_document(stories: Server) -> None:
    assert stories.get("/openapi.json") == DOCUMENT


@pytest.mark.parametrize(("path", "body"), BODIES, ids=lambda v: v if isinstance(v, str) else "")
def test_answers_match(stories: Server, path: str, body: dict[str, Any]) -> None:
    content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
    check(content["application/json"]["schema"], stories.post(path, body))
    if "text/event-stream" in content:
        events = stories.events(path, {**body, "stream": True})
        assert events
        for event in events:
            check(content["text/event-stream"]["schema"]["properties"]["data"]["contentSchema"], event)


def test_errors_match(stories: Server) -> None:
    for path in ("/generate", "/v1/completions", "/v1/score"):
        status, _, answer = stories.request(path, {"text": 5, "prompt": {}, "query": 7})
        assert status == 400
        responses = DOCUMENT["paths"][path]["post"]["responses"]
        check(responses["4XX"]["content"]["application/json"]["schema"], json.loads(answer))


def test_the_page_needs_no_internet(stories: Server) -> None:
    status, headers, page = stories.request("/docs")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert not re.search(rb"https?://|//cdn|@import|src=", page)


def test_made_up_requests(stories: Server) -> None:
    """Bounded: a few hundred generated bodies. No 5xx, and every answer is as described."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", stories.url + "/openapi.json", "--max-examples", "20"]
    command += ["--exclude-path-regex", "^/(pause_generation|slow_down|start_profile|configure_logging)$"]
    command += ["--phases", "fuzzing", "--seed", "7", "--no-color", "--request-timeout", "30", "-c"]
    command += ["not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-1000:]
    assert "passed" in found.stdout
    assert stories.request("/health")[0] == 200
