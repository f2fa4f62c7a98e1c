"""instructor: every mode in which it asks a server like this one for a pydantic model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field
from server import Server

instructor = pytest.importorskip("instructor", reason="`make test-clients` installs it and runs this")

MODES = ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"]  # in which the server holds the answer to the schema
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


class Weather(BaseModel, extra="forbid"):
    """The weather of one day."""

    sky: Literal["clear", "cloudy"]
    degrees: int = Field(ge=-40, le=50)


def asking(server: Server, mode: str, client: type[Any] = OpenAI) -> Any:
    plain = client(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    return instructor.from_openai(plain, mode=instructor.Mode[mode])


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "default", "messages": QUESTION, "max_tokens": 200, "max_retries": 0, **more}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", MODES)
def test_a_model_of_pydantic(concierge: Server, mode: str, seed: int) -> None:
    weather, raw = asking(concierge, mode).create_with_completion(
        response_model=Weather, **asked(temperature=1, seed=seed)
    )
    assert isinstance(weather, Weather)
    assert raw.usage.completion_tokens > 0


@pytest.mark.parametrize("mode", ["JSON", "MD_JSON"])
def test_json_that_the_model_writes(recital: Server, mode: str) -> None:
    """In these modes the schema is in the prompt, and what is asked for is any object, or nothing."""
    message = {"role": "user", "content": "[weather]"}
    weather = asking(recital, mode).create(response_model=Weather, **asked(messages=[message], temperature=0))
    assert weather.model_dump() == {"sky": "clear", "degrees": 21}


@pytest.mark.parametrize("mode", MODES)
def test_async(concierge: Server, mode: str) -> None:
    async def weather() -> Any:
        return await asking(concierge, mode, AsyncOpenAI).create(response_model=Weather, **asked(temperature=1, seed=1))

    assert isinstance(asyncio.run(weather()), Weather)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_fills_up(concierge: Server, mode: str) -> None:
    parts = list(asking(concierge, mode).create_partial(response_model=Weather, **asked(temperature=1, seed=2)))
    assert len(parts) > 1
    assert parts[0].degrees is None
    Weather.model_validate(parts[-1].model_dump())


@pytest.mark.parametrize(
    ("mode", "prompt"), [("TOOLS", "[days called]"), ("TOOLS_STRICT", "[days called]"), ("JSON_SCHEMA", "[days]")]
)
def test_several_models(recital: Server, mode: str, prompt: str) -> None:
    more = asked(messages=[{"role": "user", "content": prompt}], temperature=0)
    days = asking(recital, mode).create_iterable(response_model=Weather, **more)
    assert [day.degrees for day in days] == ([31, 18] if "called" in prompt else [3, 8])


def test_calls_in_parallel(recital: Server) -> None:
    class add(BaseModel):
        a: int
        b: int

    class negate(BaseModel):
        number: int

    message = {"role": "user", "content": "[both]"}
    calls = asking(recital, "PARALLEL_TOOLS").create(
        response_model=Iterable[add | negate], **asked(messages=[message], temperature=0)
    )
    assert list(calls) == [add(a=3, b=40), negate(number=43)]
