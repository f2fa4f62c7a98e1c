"""Rendering of chats: the one template that training, evaluation and the server share."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]
Tool = dict[str, Any]

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKER_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]


def to_json(value: Any, indent: int | None = None) -> str:
    """Write JSON the way the template does: readable characters, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@lru_cache(maxsize=1)
def _template() -> Any:
    """Compile the chat template once, with the settings that servers use."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = to_json
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def render(messages: list[Message], tools: list[Tool] | None = None, add_generation_prompt: bool = False) -> str:
    """Return the text of a chat."""
    return _template().render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)


def user(text: str) -> Message:
    """Return a user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """Return an assistant message with text only."""
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    """Return a system message."""
    return {"role": "system", "content": text}


def call(name: str, arguments: dict[str, Any], text: str = "") -> Message:
    """Return an assistant message that calls one function."""
    return calls([(name, arguments)], text)


def calls(items: list[tuple[str, dict[str, Any]]], text: str = "") -> Message:
    """Return an assistant message that calls several functions at once."""
    entries = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in items]
    return {"role": "assistant", "content": text, "tool_calls": entries}


def tool_result(value: Any) -> Message:
    """Return the message that carries a function's result."""
    return {"role": "tool", "content": to_json(value)}


def function(name: str, description: str, parameters: dict[str, Any], required: list[str]) -> Tool:
    """Return an OpenAI style tool; `parameters` maps names to their JSON schemas."""
    schema = {"type": "object", "properties": parameters, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
