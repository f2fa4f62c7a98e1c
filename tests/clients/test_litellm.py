"""LiteLLM's `completion` and `text_completion`, by the names under which it knows servers like this one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from server import Server, running

pytest.importorskip("litellm", reason="`make test-clients` installs it and runs this")

import litellm

PROVIDERS = ["openai", "custom_openai", "hosted_vllm"]


def function(name: str, *keys: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"type": "integer"} for key in keys}, "required": list(keys)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [function("add", "a", "b"), function("negate", "number")]


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    degrees: int = Field(ge=-40, le=50)


def given(server: Server, prompt: str, provider: str = "openai", **more: Any) -> dict[str, Any]:
    return {
        "model": f"{provider}/{server.get('/v1/models')['data'][0]['id']}",
        "messages": [{"role": "user", "content": prompt}],
        "base_url": f"{server.url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_tokens": 100,
        "max_retries": 0,
        **more,
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_completion(recital: Server, provider: str) -> None:
    answer = litellm.completion(**given(recital, "[plain]", provider))
    assert answer.choices[0].message.content == "Just some text."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    chunks = list(litellm.completion(**given(recital, "[plain]", provider), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Just some text."
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_reasoning(recital: Server) -> None:
    message = litellm.completion(**given(recital, "[thought]")).choices[0].message
    assert (message.content, message.reasoning_content) == ("It is four.", "Let me see.")
    chunks = list(litellm.completion(**given(recital, "[thought]"), stream=True))
    thought = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert thought == "Let me see."


def test_a_stream_counts_tokens(recital: Server) -> None:
    whole = litellm.completion(**given(recital, "[plain]"))
    asked = given(recital, "[plain]", stream=True, stream_options={"include_usage": True})
    chunks = list(litellm.completion(**asked))
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.prompt_tokens == whole.usage.prompt_tokens


def test_async(recital: Server) -> None:
    async def both() -> tuple[Any, list[Any]]:
        answer = await litellm.acompletion(**given(recital, "[plain]"))
        stream = await litellm.acompletion(**given(recital, "[plain]"), stream=True)
        return answer, [chunk async for chunk in stream]

    answer, chunks = asyncio.run(both())
    assert answer.choices[0].message.content == "Just some text."
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Just some text."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_tools(recital: Server, provider: str, stream: bool) -> None:
    answer = litellm.completion(**given(recital, "[both]", provider, tools=TOOLS, tool_choice="auto", stream=stream))
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    called = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert called == [("add", {"a": 3, "b": 40}), ("negate", {"number": 43})]


def test_the_result_of_a_tool(recital: Server) -> None:
    asked = given(recital, "[call]", tools=TOOLS)
    message = litellm.completion(**asked).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "name": "add", "content": '{"sum": 3}'}
    asked["messages"] += [message, result]
    assert litellm.completion(**asked).choices[0].message.content == "The sum is three."


def test_a_tool_that_has_to_be_called(concierge: Server) -> None:
    named = {"type": "function", "function": {"name": "negate"}}
    asked = given(concierge, "Hello!", tools=TOOLS, tool_choice=named, temperature=1, seed=1)
    (call,) = litellm.completion(**asked).choices[0].message.tool_calls
    assert call.function.name == "negate"
    assert isinstance(json.loads(call.function.arguments)["number"], int)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("seed", range(2))
def test_response_format(concierge: Server, provider: str, seed: int) -> None:
    asked = given(concierge, "The weather?", provider, response_format=Weather, temperature=1, seed=seed)
    Weather.model_validate_json(litellm.completion(**asked).choices[0].message.content)


@pytest.mark.parametrize("provider", ["text-completion-openai", "openai"])
def test_text(concierge: Server, provider: str) -> None:
    asked = given(concierge, "", provider, max_tokens=8)
    del asked["messages"]
    asked["prompt"] = "Once upon a time"
    whole = litellm.text_completion(**asked)
    assert whole.usage.completion_tokens == 8
    chunks = list(litellm.text_completion(**asked, stream=True))
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == whole.choices[0].text
    if provider != "openai":  # which asks the chat route
        several = litellm.text_completion(**{**asked, "prompt": ["Once upon a time", "The fox"]}, logprobs=2, echo=True)
        assert [choice.text[:7] for choice in several.choices] == ["Once up", "The fox"]
        assert len(several.choices[1].logprobs.tokens) > 8


def test_reading_text_completions_as_a_chat(concierge: Server) -> None:
    asked = given(concierge, "Once upon a time", "text-completion-openai", max_tokens=8)
    assert litellm.completion(**asked).choices[0].message.content


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with running("--threads", "1", "--api-key", "secret") as server:
        yield server


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"temperature": -1}, litellm.BadRequestError),
        ({"model": "openai/other"}, litellm.NotFoundError),
        ({"max_tokens": 100000}, litellm.ContextWindowExceededError),
        ({"messages": [{"role": "user", "content": "word " * 4000}]}, litellm.ContextWindowExceededError),
        ({"tools": [{"type": "function"}]}, litellm.BadRequestError),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_told_apart(concierge: Server, more: dict[str, Any], kind: type[Exception], stream: bool) -> None:
    with pytest.raises(kind) as e:
        list(litellm.completion(**given(concierge, "x", **more), stream=stream))
    assert type(e.value) is kind


def test_a_wrong_key(guarded: Server) -> None:
    asked = {"model": "openai/concierge", "messages": [{"role": "user", "content": "x"}], "max_retries": 0}
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**asked, base_url=f"{guarded.url}/v1", api_key="wrong")
    assert litellm.completion(**asked, base_url=f"{guarded.url}/v1", api_key="secret", max_tokens=2)
