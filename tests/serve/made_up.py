"""Hooks of schemathesis for `test_openapi.py`, which names this module in SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import schemathesis

# What no generator comes upon: names and ids that exist. The other fields of a request stay as they were made up.
GOOD: dict[str, dict[str, Any]] = {
    "/generate": {"text": "One day", "input_ids": None, "rid": None, "sampling_params": {"max_new_tokens": 4}},
    "/v1/completions": {"prompt": ["One day", "The fox"], "max_tokens": 4},
    "/v1/chat/completions": {"max_tokens": 4, "max_completion_tokens": None},
    "/v1/tokenize": {"prompt": None, "messages": [{"role": "user", "content": "Hello!"}]},
    "/tokenize": {"messages": None, "prompt": "One day"},
    "/v1/detokenize": {"tokens": [5, 6]},
    "/detokenize": {"tokens": [[5], [6]]},
    "/v1/score": {"query": "a", "items": ["b", "c"], "label_token_ids": [5, 6], "temperature": 1.0},
    "/v1/rerank": {"query": "a", "documents": ["b", "c"], "top_n": 1},
    "/separate_reasoning": {"reasoning_parser": None},
}
NOT_HERE = ("model", "session_params", "lora_path")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Every second body gets what it needs to come past the first checks; which one depends on nothing but the body."""
    path = context.operation.path
    if isinstance(body, dict) and path in GOOD and len(json.dumps(body)) % 2:
        return {key: value for key, value in body.items() if key not in NOT_HERE} | GOOD[path]
    return body


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    with Path(os.environ["MADE_UP_LOG"]).open("a") as file:
        file.write(f"{response.status_code} {case.path} {response.text[:200]!r}\n")
