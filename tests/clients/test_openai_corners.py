"""OpenAI's client where it is less often used; `serve/test_openai.py` and `serve/test_tools.py` have the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field
from server import Server, running, slow_model

from assets import BUNDLED


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    degrees: int = Field(ge=-40, le=50)


class Add(BaseModel):
    """Add two numbers."""

    a: int
    b: int


class Negate(BaseModel):
    """Turn the sign of a number."""

    number: int


TOOLS = [openai.pydantic_function_tool(Add, name="add"), openai.pydantic_function_tool(Negate, name="negate")]
TEXT = {"model": "default", "prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}


def client_of(server: Server, **more: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", **{"max_retries": 0, **more})


def asked(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "default", "messages": [{"role": "user", "content": prompt}], "temperature": 0, **more}


CALLING = asked("Two and two?", tools=TOOLS, tool_choice="required", temperature=1, seed=1, max_tokens=200)


# -- pydantic ----------------------------------------------------------------------------------------------------------


def test_parse(recital: Server) -> None:
    client = client_of(recital)
    for completions in (client.chat.completions, client.beta.chat.completions):
        message = completions.parse(**asked("[weather]", response_format=Weather)).choices[0].message
        assert message.parsed == Weather(sky="clear", degrees=21)
        assert message.refusal is None


def test_parse_tools(concierge: Server) -> None:
    choice = client_of(concierge).chat.completions.parse(**CALLING).choices[0]
    parsed = [call.function.parsed_arguments for call in choice.message.tool_calls or []]
    assert parsed
    assert all(isinstance(one, Add | Negate) for one in parsed)


def test_parse_of_what_was_cut(concierge: Server) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client_of(concierge).chat.completions.parse(**asked("Hello!", response_format=Weather, max_tokens=3))


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_of_a_format(recital: Server) -> None:
    client = client_of(recital)
    with client.chat.completions.stream(**asked("[weather]", response_format=Weather)) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    said = [event for event in events if event.type == "content.delta"]
    assert "".join(event.delta for event in said) == said[-1].snapshot
    (done,) = [event for event in events if event.type == "content.done"]
    assert done.parsed == final.choices[0].message.parsed == Weather(sky="clear", degrees=21)
    assert events[0].type == "chunk"


def test_events_of_tools(concierge: Server) -> None:
    client = client_of(concierge)
    whole = client.chat.completions.parse(**CALLING)
    with client.chat.completions.stream(**CALLING, stream_options={"include_usage": True}) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    calls = whole.choices[0].message.tool_calls or []
    assert [(one.index, one.name, one.parsed_arguments) for one in done] == [
        (index, call.function.name, call.function.parsed_arguments) for index, call in enumerate(calls)
    ]
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta" and event.index == 0]
    assert "".join(event.arguments_delta for event in deltas) == done[0].arguments
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage == whole.usage


def test_events_of_log_probabilities(concierge: Server) -> None:
    client = client_of(concierge)
    more = {"logprobs": True, "top_logprobs": 2, "max_tokens": 5}
    with client.chat.completions.stream(**asked("Hello!", **more)) as stream:
        events = list(stream)
    (done,) = [event for event in events if event.type == "logprobs.content.done"]
    whole = client.chat.completions.create(**asked("Hello!", **more)).choices[0].logprobs
    assert whole is not None
    assert [entry.token for entry in done.content] == [entry.token for entry in whole.content or []]
    assert all(len(entry.top_logprobs) == 2 for entry in done.content)


def test_async_events(concierge: Server) -> None:
    async def final() -> Any:
        client = AsyncOpenAI(base_url=f"{concierge.url}/v1", api_key="none", max_retries=0)
        async with client, client.chat.completions.stream(**CALLING) as stream:
            kinds = [event.type async for event in stream]
            return kinds, await stream.get_final_completion()

    kinds, completion = asyncio.run(final())
    assert "tool_calls.function.arguments.done" in kinds
    calls = completion.choices[0].message.tool_calls
    assert all(isinstance(call.function.parsed_arguments, Add | Negate) for call in calls)


# -- responses as they are ---------------------------------------------------------------------------------------------


def test_raw_responses(recital: Server) -> None:
    client = client_of(recital)
    raw = client.chat.completions.with_raw_response.create(
        **asked("[plain]"), extra_headers={"X-Request-Id": "mine"}, extra_query={"x": "1"}
    )
    assert raw.headers["x-request-id"] == "mine"
    assert raw.parse().choices[0].message.content == "Just some text."
    assert raw.parse()._request_id == "mine"
    with client.chat.completions.with_streaming_response.create(**asked("[plain]", stream=True)) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["choices"][0]["delta"]["role"] == "assistant"


def test_a_stream_that_is_left(concierge: Server) -> None:
    """The rows of a client that goes away are ended, and the server serves on."""
    client = client_of(concierge)
    with client.completions.create(**{**TEXT, "max_tokens": 1500}, stream=True, extra_body={"ignore_eos": True}) as s:
        next(iter(s))
    assert client.completions.create(**TEXT).choices[0].text


def test_async(concierge: Server) -> None:
    async def texts() -> list[str]:
        async with AsyncOpenAI(base_url=f"{concierge.url}/v1", api_key="none", max_retries=0) as client:
            many = await asyncio.gather(*(client.completions.create(**TEXT) for _ in range(8)))
            stream = await client.completions.create(**TEXT, stream=True)
            return [*(one.choices[0].text for one in many), "".join([c.choices[0].text async for c in stream])]

    assert len(set(asyncio.run(texts()))) == 1


def test_models(concierge: Server) -> None:
    client = client_of(concierge)
    (model,) = list(client.models.list())
    assert client.models.retrieve(model.id) == model
    assert client.completions.create(**{**TEXT, "model": model.id}).model == model.id
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(model=model.id, input="x")
    with pytest.raises(openai.BadRequestError, match="Serve an embedding model"):
        client.embeddings.create(model=model.id, input="x")


def test_scoring_with_text_completions(concierge: Server) -> None:
    """`echo`, `logprobs` and no new token: how evaluations read the likelihood of a text."""
    client = client_of(concierge)
    scored = client.completions.create(**{**TEXT, "max_tokens": 0}, echo=True, logprobs=1).choices[0]
    assert scored.text == TEXT["prompt"]
    found = scored.logprobs
    assert found is not None
    assert found.token_logprobs is not None
    native = concierge.post(
        "/generate",
        {
            "text": TEXT["prompt"],
            "sampling_params": {"max_new_tokens": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
        },
    )
    wanted = [entry[0] for entry in native["meta_info"]["input_token_logprobs"]]
    assert found.token_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(wanted[1:], abs=1e-4)
    assert "".join(found.tokens or []) == TEXT["prompt"]


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A slow model that takes one request at a time and keeps one waiting."""
    folder = slow_model(tmp_path_factory.mktemp("slow") / "model", BUNDLED)
    flags = ("--load-format", "dummy", "--max-running-requests", "1", "--max-queued-requests", "1")
    with running(str(folder), *flags, "--threads", "1", "--drain-timeout", "2") as server:
        yield server


def test_a_timeout(busy: Server) -> None:
    long = {**TEXT, "max_tokens": 8000, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APITimeoutError):
        client_of(busy, timeout=0.5).completions.create(**long)
    assert client_of(busy).completions.create(**TEXT).usage is not None, "what nobody waits for has made room"


def test_retries(busy: Server) -> None:
    """A server that is full says when to come again, and the client comes again by itself."""
    long = {**TEXT, "max_tokens": 8000, "extra_body": {"ignore_eos": True}, "stream": True}
    first = client_of(busy).completions.create(**long)
    next(iter(first))

    async def ask() -> tuple[Any, Any]:
        async with AsyncOpenAI(base_url=f"{busy.url}/v1", api_key="none", max_retries=0) as client:
            waiting = [asyncio.ensure_future(client.completions.create(**TEXT)) for _ in range(3)]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
            refused = next(task for task in done if task.exception())
            patient = asyncio.ensure_future(client.with_options(max_retries=5).completions.create(**TEXT))
            await asyncio.sleep(0.2)
            first.close()
            answer = await patient
            await asyncio.gather(*waiting, return_exceptions=True)
            return refused.exception(), answer

    refused, answer = asyncio.run(ask())
    assert isinstance(refused, openai.InternalServerError)
    assert refused.status_code == 503
    assert int(refused.response.headers["retry-after"]) >= 1
    assert answer.choices[0].text
