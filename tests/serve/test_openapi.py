"""The document that describes the API is true: it is valid, complete, and what really comes back matches it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from server import Server, running

from assets import BUNDLED, shared
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
            check(content["text/event-stream"]["schema"]["properties"]["data"]["anyOf"][0]["contentSchema"], event)


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


# -- what schemathesis makes up ----------------------------------------------------------------------------------------

CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance"
DISRUPTIVE = "^/(pause_generation|slow_down|start_profile|configure_logging)$"
DEEP = ("/generate", "/v1/completions", "/v1/chat/completions", "/v1/tokenize", "/v1/detokenize", "/v1/score")
DEEP += ("/parse_function_call", "/separate_reasoning")


@pytest.fixture
def conversing() -> Iterator[Server]:
    """A quick model with a template that knows tools, and with a format of reasoning."""
    template = str(BUNDLED / "chat_template.jinja")
    model = str(shared("weights/TinyStories-656K"))
    with running(model, "--chat-template", template, "--reasoning-parser", "qwen3", "--threads", "1") as server:
        yield server


def make_up(server: Server, log: Path, *more: str) -> Counter[tuple[str, str]]:
    """How often each path answered with each status. No answer was a 5xx, and every one is as described."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "-c", CHECKS, *more]
    command += ["--exclude-path-regex", DISRUPTIVE, "--no-color", "--request-timeout", "60"]
    command += ["--suppress-health-check", "all"]  # they are about the speed of this machine
    hooks = {"SCHEMATHESIS_HOOKS": "made_up", "MADE_UP_LOG": str(log), "PYTHONPATH": str(Path(__file__).parent)}
    env = {**os.environ, **hooks}
    found = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=env)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-1000:]
    assert "passed" in found.stdout
    assert server.request("/health_generate")[0] == 200
    assert "Traceback" not in server.log
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    return Counter((path, status) for status, path, _ in lines)


def test_made_up_requests(conversing: Server, tmp_path: Path) -> None:
    """A few hundred bodies, many of which really are computed."""
    answers = make_up(conversing, tmp_path / "log", "--max-examples", "20", "--phases", "fuzzing", "--seed", "7")
    for path in DEEP:
        assert answers[path, "200"] > 0, (path, answers)
        assert answers[path, "400"] > 0, (path, answers)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_made_up_requests(conversing: Server, tmp_path: Path) -> None:
    """Thousands, also the borders of every field by itself."""
    more = ("--max-examples", "100", "--phases", "coverage,fuzzing", "--seed", "11", "--continue-on-failure")
    answers = make_up(conversing, tmp_path / "log", *more)
    assert sum(answers.values()) > 4000
