"""LangChain's `ChatOpenAI`, and its `OpenAI` for text."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field
from server import Server

from assets import ROOT

pytest.importorskip("langchain_openai", reason="`make test-clients` installs it and runs this")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as TextOpenAI

QUESTION = "What is the weather in Paris?"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def negate(number: int) -> int:
    """Turn the sign of a number."""
    return -number


class Weather(BaseModel, extra="forbid"):
    """The weather of one day."""

    sky: Literal["clear", "cloudy"]
    degrees: int = Field(ge=-40, le=50)


def chat(server: Server, **more: Any) -> ChatOpenAI:
    given = {"model": "default", "temperature": 0, "max_tokens": 100, **more}
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, **given)


def test_invoke(recital: Server) -> None:
    answer = chat(recital).invoke("[plain]")
    assert answer.content == "Just some text."
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "recital"
    assert answer.usage_metadata["total_tokens"] == sum(
        answer.usage_metadata[kind] for kind in ("input_tokens", "output_tokens")
    )


def test_messages_of_all_roles(concierge: Server) -> None:
    greeting = HumanMessage([{"type": "text", "text": "Hello!"}])
    said = [SystemMessage("Be brief."), greeting, AIMessage("Hi."), ("user", "Who are you?")]
    answer = chat(concierge, max_tokens=8, logprobs=True, top_logprobs=2).invoke(said)
    assert answer.content
    listed = answer.response_metadata["logprobs"]["content"]
    assert len(listed) == answer.usage_metadata["output_tokens"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in listed)
    again = chat(concierge, max_tokens=8).invoke(said)
    assert again.usage_metadata["input_token_details"]["cache_read"] > 0


def test_streams_count_tokens(recital: Server) -> None:
    whole = chat(recital).invoke("[plain]")
    chunks = list(chat(recital, stream_usage=True).stream("[plain]"))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    total = sum(chunks[1:], chunks[0])
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata["finish_reason"] == "stop"
    assert total.id == chunks[0].id


def test_async(recital: Server) -> None:
    async def both() -> tuple[Any, ...]:
        model = chat(recital)
        return (
            await model.ainvoke("[plain]"),
            [chunk async for chunk in model.astream("[plain]")],
            await model.abatch(["[plain]", "[call]"]),
            await model.with_structured_output(Weather).ainvoke("[weather]"),
        )

    answer, chunks, batch, weather = asyncio.run(both())
    assert weather == Weather(sky="clear", degrees=21)
    assert answer.content == "".join(chunk.content for chunk in chunks) == batch[0].content == "Just some text."


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("seed", range(3))
def test_structured_output(concierge: Server, method: Literal["json_schema", "function_calling"], seed: int) -> None:
    """Of a model that would say anything else."""
    model = chat(concierge, temperature=1, seed=seed).with_structured_output(Weather, method=method)
    assert isinstance(model.invoke(QUESTION), Weather)


def test_json_mode(recital: Server) -> None:
    model = chat(recital).with_structured_output(Weather, method="json_mode", include_raw=True)
    answer = model.invoke("[weather]")
    assert answer["parsed"] == Weather(sky="clear", degrees=21)
    assert answer["raw"].response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("strict", [True, False])
def test_structured_output_in_a_stream(concierge: Server, strict: bool) -> None:
    model = chat(concierge, temperature=1, seed=4).with_structured_output(
        Weather.model_json_schema(), method="json_schema", strict=strict
    )
    pieces = list(model.stream(QUESTION))
    assert len(pieces) > 1
    Weather.model_validate(pieces[-1])


def test_tools_that_may_be_called(recital: Server) -> None:
    model = chat(recital).bind_tools([add, negate], tool_choice="auto")
    answer = model.invoke("[both]")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("add", {"a": 3, "b": 40}),
        ("negate", {"number": 43}),
    ]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    chunks = list(model.stream("[both]"))
    total = sum(chunks[1:], chunks[0])
    assert [(call["name"], call["args"]) for call in total.tool_calls] == [
        (call["name"], call["args"]) for call in answer.tool_calls
    ]
    assert total.invalid_tool_calls == []


@pytest.mark.parametrize("choice", ["any", "required", "add", True])
def test_tools_that_have_to_be_called(concierge: Server, choice: str | bool) -> None:
    tools = [add] if choice is True else [add, negate]
    model = chat(concierge, temperature=1, seed=5, max_tokens=200).bind_tools(
        tools, tool_choice=choice, parallel_tool_calls=False, strict=True
    )
    answer = model.invoke(QUESTION)
    (call,) = answer.tool_calls
    assert call["name"] in ({"add"} if choice in ("add", True) else {"add", "negate"})
    {"add": add, "negate": negate}[call["name"]].invoke(call["args"])


def test_the_result_of_a_tool(recital: Server) -> None:
    """The whole round: a call, the tool itself, its message, an answer."""
    model = chat(recital).bind_tools([add, negate])
    asked = model.invoke("[call]")
    (call,) = asked.tool_calls
    result = add.invoke(call)
    assert isinstance(result, ToolMessage)
    result.content = f'{{"sum": {result.content}}}'
    assert model.invoke([HumanMessage("[call]"), asked, result]).content == "The sum is three."


def test_what_the_readme_says(concierge: Server, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "langchain" in block]
    exec(compile(code.replace("http://127.0.0.1:30000", concierge.url), "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 10


def test_text(concierge: Server) -> None:
    model = TextOpenAI(base_url=f"{concierge.url}/v1", api_key="none", model="default", max_tokens=8, temperature=0)
    whole = model.invoke("Once upon a time")
    assert whole == "".join(model.stream("Once upon a time"))
    assert len(model.batch(["Once upon a time", "The fox"])) == 2
    made = model.generate(["Once upon a time"])
    assert made.llm_output["token_usage"]["completion_tokens"] == 8


def test_errors(recital: Server) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(recital, model="other").invoke("[plain]")
    with pytest.raises(openai.BadRequestError):
        chat(recital).invoke("[plain]", temperature=-1)
