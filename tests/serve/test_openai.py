"""OpenAI's routes through OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from server import Server, running

from assets import shared

PROMPT = "Once upon a time "
TEMPLATE = (
    "{{ bos_token }}{%- for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} {% endif %}"
)
CHAT = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    template = tmp_path_factory.mktemp("template") / "plain.jinja"
    template.write_text(TEMPLATE)
    folder = str(shared("weights/TinyStories-656K"))
    with running(
        folder, "--served-model-name", "stories", "--chat-template", str(template), "--enable-cache-report"
    ) as s:
        yield s


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "stories"
    assert client.models.retrieve("stories").id == "stories"
    with pytest.raises(openai.NotFoundError) as e:
        client.models.retrieve("other")
    assert e.value.code == "model_not_found"


def test_completion(client: OpenAI) -> None:
    answer = client.completions.create(model="stories", prompt=PROMPT, max_tokens=8, temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "there was a little girl named Amy. She loved to explore and "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 8, 14)


def test_completion_defaults_to_16_tokens(client: OpenAI) -> None:
    answer = client.completions.create(model="stories", prompt=PROMPT, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_completion_stream_adds_up(client: OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(
        client.completions.create(
            model="stories", prompt=PROMPT, max_tokens=8, temperature=0, stream=True, stream_options=options
        )
    )
    text = "".join(c.choices[0].text for c in chunks if c.choices)
    assert text == "there was a little girl named Amy. She loved to explore and "
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert all(c.usage is None for c in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 7 + ["length"]


def test_several_prompts_and_choices(client: OpenAI) -> None:
    answer = client.completions.create(
        model="stories", prompt=[PROMPT, "One day, "], n=2, max_tokens=6, seed=3, temperature=1
    )
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert len({c.text for c in answer.choices}) == 4
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    again = client.completions.create(
        model="stories", prompt=[PROMPT, "One day, "], n=2, max_tokens=6, seed=3, temperature=1
    )
    assert [c.text for c in again.choices] == [c.text for c in answer.choices]


def test_token_ids_as_prompt(client: OpenAI, server: Server) -> None:
    ids = server.post(
        "/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 0}, "return_prompt_token_ids": True}
    )
    by_ids = client.completions.create(model="stories", prompt=ids["prompt_token_ids"], max_tokens=5, temperature=0)
    by_text = client.completions.create(model="stories", prompt=PROMPT, max_tokens=5, temperature=0)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_echo_and_logprobs(client: OpenAI) -> None:
    answer = client.completions.create(
        model="stories", prompt=PROMPT, max_tokens=4, temperature=0, echo=True, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPT)
    found = choice.logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert len(found.tokens or []) == len(found.token_logprobs) == 10
    assert found.token_logprobs[0] is None
    assert all(len(top) <= 2 for top in (found.top_logprobs or [])[1:])
    scored = client.completions.create(model="stories", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert scored.choices[0].text == PROMPT
    assert scored.choices[0].logprobs is not None
    assert scored.choices[0].logprobs.token_logprobs == pytest.approx(found.token_logprobs[:6], abs=1e-4, nan_ok=True)


def check_offsets(logprobs: dict, text: str) -> None:
    """Every token stands where its text is; one that is not said has no width, nor has the first space of a text."""
    ends = [*logprobs["text_offset"][1:], len(text)]
    for token, start, end in zip(logprobs["tokens"], logprobs["text_offset"], ends, strict=True):
        assert text[start:end] in (token, token.removeprefix(" ") if start == 0 else token, "")
        assert end > start or token in (BOS, " ")


BOS = "<|start_story|>"


@pytest.mark.parametrize("prompt", [PROMPT, "One day, Zo\u00eb saw \u2603!", "ids"])
def test_offsets_point_into_the_text(server: Server, prompt: str) -> None:
    text = "A fish swam and swam" if prompt == "ids" else prompt
    ids = server.post("/v1/tokenize", {"prompt": text})["tokens"]
    if prompt == "ids":
        text = server.post("/v1/detokenize", {"tokens": ids})["text"]
    body = {"prompt": ids if prompt == "ids" else text, "max_tokens": 6, "temperature": 0, "logprobs": 1}
    (echoed,) = server.post("/v1/completions", {**body, "echo": True})["choices"]
    assert echoed["text"].startswith(text)
    assert echoed["logprobs"]["tokens"][0] == BOS
    assert len(echoed["logprobs"]["tokens"]) == len(ids) + 6
    (plain,) = server.post("/v1/completions", body)["choices"]
    assert plain["logprobs"]["text_offset"][0] == 0
    moved = [offset + len(text) for offset in plain["logprobs"]["text_offset"]]
    assert echoed["logprobs"]["text_offset"][len(ids) :] == moved
    if prompt == PROMPT:
        check_offsets(echoed["logprobs"], echoed["text"])
        check_offsets(plain["logprobs"], plain["text"])
    for more in ({}, {"echo": True}):
        whole = echoed if more else plain
        events = [e["choices"][0] for e in server.events("/v1/completions", {**body, **more, "stream": True})]
        for name in ("tokens", "text_offset", "token_logprobs"):
            assert [entry for e in events for entry in e["logprobs"][name]] == whole["logprobs"][name]


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="stories", messages=CHAT, max_tokens=8, temperature=0)
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert (message.content or "").startswith("there was a little girl named ")
    assert answer.choices[0].finish_reason == "length"
    again = client.chat.completions.create(model="stories", messages=CHAT, max_tokens=8, temperature=0)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_chat_stream(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="stories",
            messages=CHAT,
            max_tokens=8,
            temperature=0,
            stream=True,
            n=2,
            seed=1,
            stream_options={"include_usage": True},
        )
    )
    roles = [c for c in chunks if c.choices and c.choices[0].delta.role]
    assert [c.choices[0].index for c in roles] == [0, 1]
    assert chunks.index(roles[1]) == 1
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices and c.choices[0].index == 0)
    whole = client.chat.completions.create(model="stories", messages=CHAT, max_tokens=8, temperature=0)
    assert text == whole.choices[0].message.content
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finishes == ["length", "length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_chat_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="stories", messages=CHAT, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert len(found.content) == 4
    for token in found.content:
        assert token.bytes is not None
        assert bytes(token.bytes).decode() == token.token
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3
    streamed = client.chat.completions.create(
        model="stories", messages=CHAT, max_tokens=4, temperature=0, logprobs=True, stream=True
    )
    tokens = [
        t.token for c in streamed if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content or []
    ]
    assert tokens == [t.token for t in found.content]


def test_streams_tell_token_ids(server: Server) -> None:
    chat = {"messages": CHAT, "max_tokens": 6, "temperature": 0, "return_token_ids": True}
    (whole,) = server.post("/v1/chat/completions", chat)["choices"]
    events = [e["choices"][0] for e in server.events("/v1/chat/completions", {**chat, "stream": True})]
    assert events[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_token_ids" in e for e in events[1:])
    assert [i for e in events for i in e.get("response_token_ids", [])] == whole["response_token_ids"]
    text = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "return_token_ids": True}
    (whole,) = server.post("/v1/completions", text)["choices"]
    events = [e["choices"][0] for e in server.events("/v1/completions", {**text, "stream": True})]
    assert events[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert [i for e in events for i in e["token_ids"]] == whole["token_ids"]
    plain = server.events("/v1/chat/completions", {**chat, "stream": True, "return_token_ids": False})
    assert not any("token_ids" in key for e in plain for key in e["choices"][0])


def test_content_parts_are_joined(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "Once upon"}, {"type": "text", "text": " a time"}]
    answer = client.chat.completions.create(
        model="stories", messages=[{"role": "user", "content": parts}], max_tokens=3, temperature=0
    )
    assert (answer.choices[0].message.content or "").startswith("there was a ")


def test_stop(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="stories", messages=CHAT, max_tokens=30, temperature=0, stop=["girl"])
    assert answer.choices[0].message.content == "there was a little "
    assert answer.choices[0].finish_reason == "stop"


def test_chat_without_a_limit_goes_to_the_end(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="stories", messages=CHAT, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        ({"model": "other"}, openai.NotFoundError, "does not exist"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"n": 1000000}, openai.BadRequestError, "n"),
        ({"max_tokens": 100000}, openai.BadRequestError, "maximum context length"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"stop": ["x"] * 100}, openai.BadRequestError, "stop"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "function"),
        ({"response_format": {"type": "jsonish"}}, openai.BadRequestError, "response_format"),
        ({"messages": [{"role": "user", "content": "x " * 2000}]}, openai.BadRequestError, "longer than"),
        ({"top_logprobs": 3}, openai.BadRequestError, "logprobs"),
        ({"logprobs": True, "top_logprobs": 50}, openai.BadRequestError, "top_logprobs"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            openai.BadRequestError,
            "only text",
        ),
    ],
    ids=lambda v: str(v)[:40],
)
def test_errors_raise_the_right_class(client: OpenAI, more: dict, kind: type, says: str) -> None:
    body = {"model": "stories", "messages": CHAT, "max_tokens": 4, **more}
    with pytest.raises(kind) as e:
        client.chat.completions.create(**body)
    assert says in str(e.value)
    assert set(e.value.body) == {"message", "type", "param", "code"}


def test_unknown_fields_are_said_in_the_log(client: OpenAI, server: Server) -> None:
    client.completions.create(model="stories", prompt=PROMPT, max_tokens=2, extra_body={"frobnicate": 3})
    assert "'frobnicate' is not known" in server.log


def test_fields_without_effect_are_accepted(client: OpenAI) -> None:
    client.chat.completions.create(
        model="stories", messages=CHAT, max_tokens=2, user="u", metadata={"a": "b"}, store=False, service_tier="auto"
    )


def test_many_at_once(server: Server) -> None:
    """Each answer is what it is alone, whatever runs beside it."""

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(number: int) -> str:
                stream = await client.completions.create(
                    model="stories",
                    prompt=f"One day number {number} ",
                    max_tokens=24,
                    temperature=1,
                    seed=number,
                    stream=True,
                )
                return "".join([c.choices[0].text async for c in stream if c.choices])

            return await asyncio.gather(*(one(n) for n in range(40)))

    together = asyncio.run(all_of_them())
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    for number in (0, 17, 39):
        alone = client.completions.create(
            model="stories", prompt=f"One day number {number} ", max_tokens=24, temperature=1, seed=number
        )
        assert together[number] == alone.choices[0].text


def test_a_base_model_says_what_to_do(stories: Server) -> None:
    status, _, body = stories.request("/v1/chat/completions", {"messages": CHAT})
    error = json.loads(body)["error"]
    assert status == 400
    assert error["code"] == "no_chat_template"
    assert "--chat-template" in error["message"]
    assert "/v1/completions" in error["message"]


def test_request_ids(stories: Server) -> None:
    _, headers, _ = stories.request(
        "/v1/completions", {"prompt": PROMPT, "max_tokens": 1}, headers={"X-Request-Id": "mine"}
    )
    assert headers["x-request-id"] == "mine"
    _, headers, _ = stories.request("/v1/completions", {"prompt": PROMPT, "max_tokens": 1})
    assert len(headers["x-request-id"]) == 32
    _, headers, _ = stories.request("/health", headers={"X-Request-Id": "x" * 500})
    assert len(headers["x-request-id"]) == 32


def test_path_of_the_template_is_checked_at_start(tmp_path: Path) -> None:
    from server import refused_to_start

    said = refused_to_start(str(shared("weights/TinyStories-656K")), "--chat-template", str(tmp_path / "nothing.jinja"))
    assert "there is no such file" in said
