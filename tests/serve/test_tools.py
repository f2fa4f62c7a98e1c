"""Tool calls and reasoning over HTTP: of models of which every letter is known, and of one that is trained."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from recital import reciter
from server import Server, running


def function(name: str, strict: bool | None = None, **properties: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}}


NUMBER = {"type": "integer"}
TOOLS = [function("add", a=NUMBER, b=NUMBER), function("negate", number=NUMBER)]

THOUGHT = "<think>\nLet me see.\n</think>\n\n"
ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
SCRIPTS = {
    "[plain]": "Just some text.",
    "[thought]": f"{THOUGHT}It is four.",
    "[open]<think>": "\nTwo and two, hm.\n</think>\n\nFour then.",
    "[call]": f"I add them: {ADD}",
    "[both]": "<think>\nA sum, then.\n</think>\n\n"
    '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 40}}\n</tool_call>\n'
    '<tool_call>\n{"name": "negate", "arguments": {"number": 43}}\n</tool_call>',
    "[broken]": '<tool_call>\n{"name": "add", "arguments": {"a": whatever, it goes on',
    "[stranger]": '<tool_call>\n{"name": "shutdown", "arguments": {}}\n</tool_call> was not asked for.',
    "[json]": '<think>\nAn object, is it?\n</think>\n\n{"x": 17}',
    "[openjson]<think>": '\nOpen, and now\n</think>\n\n{"x": 18}',
}
# message: (content, reasoning, calls)
READ = {
    "[plain]": ("Just some text.", None, []),
    "[thought]": ("It is four.", "Let me see.", []),
    "[open]<think>": ("Four then.", "Two and two, hm.", []),
    "[call]": ("I add them:", None, [("add", {"a": 1, "b": 2})]),
    "[both]": (None, "A sum, then.", [("add", {"a": 3, "b": 40}), ("negate", {"number": 43})]),
    "[broken]": (SCRIPTS["[broken]"], None, []),
    "[stranger]": (SCRIPTS["[stranger]"], None, []),
}


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = reciter(tmp_path_factory.mktemp("recital") / "model", SCRIPTS)
    flags = ("--tool-call-parser", "hermes", "--reasoning-parser", "qwen3", "--served-model-name", "recital")
    with running(str(folder), *flags, "--threads", "1") as server:
        yield server


@pytest.fixture(scope="module")
def client(reciting: Server) -> OpenAI:
    return OpenAI(base_url=f"{reciting.url}/v1", api_key="none", max_retries=0)


def ask(client: OpenAI, prompt: str, **more: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    body = {"model": "default", "messages": messages, "temperature": 0, "tools": TOOLS, **more}
    return client.chat.completions.create(**body)


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


@pytest.mark.parametrize("prompt", READ)
def test_a_whole_answer(client: OpenAI, prompt: str) -> None:
    answer = ask(client, prompt)
    choice = answer.choices[0]
    content, reasoning, calls = READ[prompt]
    assert choice.message.content == content
    assert choice.message.model_dump().get("reasoning_content") == reasoning
    assert calls_of(choice.message) == calls
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    assert len({call.id for call in choice.message.tool_calls or []}) == len(calls)
    details = answer.usage.completion_tokens_details
    assert (details.reasoning_tokens if details else 0) == answer.usage.model_dump()["reasoning_tokens"]
    assert (details is not None) == (reasoning is not None)


@pytest.mark.parametrize("prompt", sorted(READ.keys() - {"[broken]"}))
def test_the_same_in_pieces(client: OpenAI, prompt: str) -> None:
    """A call's id and name come first, then pieces of its arguments; what was said is never taken back."""
    content, reasoning, calls = READ[prompt]
    whole = ask(client, prompt)
    said, thought, built, reasons, usage = "", "", {}, [], None
    for chunk in ask(client, prompt, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            delta = choice.delta.model_dump(exclude_unset=True)
            said += delta.get("content") or ""
            thought += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(built)
                    assert call["type"] == "function"
                    built[call["index"]] = call["function"]
                    assert built[call["index"]]["arguments"] == ""
                else:
                    assert set(call["function"]) == {"arguments"}
                    built[call["index"]]["arguments"] += call["function"]["arguments"]
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert (said, thought) == (content or "", reasoning or "")
    assert [(call["name"], json.loads(call["arguments"])) for call in built.values()] == calls
    assert reasons == [whole.choices[0].finish_reason]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.model_dump()["reasoning_tokens"] == whole.usage.model_dump()["reasoning_tokens"]


def test_a_call_that_breaks_off_in_a_stream(client: OpenAI) -> None:
    """It was certain to be a call when it was announced. What follows the break is text, and nothing is lost."""
    deltas = [chunk.choices[0].delta for chunk in ask(client, "[broken]", stream=True) if chunk.choices]
    calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
    assert calls[0].name == "add"
    arguments = "".join(call.arguments for call in calls)
    assert SCRIPTS["[broken]"].endswith(arguments + "".join(delta.content or "" for delta in deltas))
    assert arguments


def test_reasoning_tokens_are_counted_exactly(reciting: Server) -> None:
    """The answer without its reasoning is one token of the text at a time, so the rest of them is known."""
    body = {"messages": [{"role": "user", "content": "[thought]"}], "temperature": 0, "return_token_ids": True}
    answer = reciting.post("/v1/chat/completions", body)
    texts = [reciting.post("/detokenize", {"tokens": [t]})["text"] for t in answer["choices"][0]["response_token_ids"]]
    ends = next(at for at in range(len(texts)) if "</think>" in "".join(texts[: at + 1])) + 1
    assert abs(answer["usage"]["reasoning_tokens"] - ends) <= 1, "a token may hold the mark and what follows it"
    assert 0 < answer["usage"]["reasoning_tokens"] < answer["usage"]["completion_tokens"]


def test_without_tools_calls_are_text(client: OpenAI) -> None:
    for more in ({"tools": openai.omit}, {"tool_choice": "none"}):
        choice = ask(client, "[call]", **more).choices[0]
        assert choice.message.content == SCRIPTS["[call]"]
        assert choice.message.tool_calls is None
        assert choice.finish_reason == "stop"


def test_reasoning_in_the_text(client: OpenAI) -> None:
    message = ask(client, "[both]", extra_body={"separate_reasoning": False}).choices[0].message
    assert message.content == "<think>\nA sum, then.\n</think>"
    assert len(message.tool_calls) == 2
    pieces = [
        chunk.choices[0].delta.model_dump().get("reasoning_content")
        for chunk in ask(client, "[thought]", stream=True, extra_body={"stream_reasoning": False})
        if chunk.choices
    ]
    assert [piece for piece in pieces if piece] == ["Let me see."]


def test_a_call_that_is_cut(client: OpenAI) -> None:
    """The length ended it: what there is of the call is kept, as OpenAI does."""
    tokens = ask(client, "[call]").usage.completion_tokens
    choice = ask(client, "[call]", max_tokens=tokens - 8).choices[0]
    assert choice.finish_reason == "length"
    (call,) = choice.message.tool_calls
    assert call.function.name == "add"
    assert '{"a": 1, "b": 2}'.startswith(call.function.arguments)


def test_several_choices(client: OpenAI) -> None:
    answer = ask(client, "[both]", n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(calls_of(choice.message) == READ["[both]"][2] for choice in answer.choices)
    assert len({call.id for choice in answer.choices for call in choice.message.tool_calls}) == 6
    built: dict[int, str] = {}
    for chunk in ask(client, "[both]", n=2, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                built[choice.index] = built.get(choice.index, "") + call.function.arguments
    assert built == dict.fromkeys([0, 1], '{"a": 3, "b": 40}{"number": 43}')


def test_log_probabilities_of_all_tokens(client: OpenAI) -> None:
    answer = ask(client, "[both]", logprobs=True)
    listed = "".join(entry.token for entry in answer.choices[0].logprobs.content)
    assert listed.removesuffix("<|end|>") == SCRIPTS["[both]"]
    entries = [
        entry.token
        for chunk in ask(client, "[both]", logprobs=True, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert "".join(entries) == listed


@pytest.mark.parametrize(
    ("prompt", "thought"), [("[json]", "An object, is it?"), ("[openjson]<think>", "Open, and now")]
)
@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_the_grammar_begins_after_the_reasoning(client: OpenAI, prompt: str, thought: str, kind: str) -> None:
    schema = {"type": "object", "properties": {"x": {"const": 17}}, "required": ["x"], "additionalProperties": False}
    form: dict[str, Any] = {"type": kind}
    if kind == "json_schema":
        form["json_schema"] = {"name": "x", "schema": schema}
    message = ask(client, prompt, tools=openai.omit, response_format=form, max_tokens=60).choices[0].message
    assert message.model_dump()["reasoning_content"] == thought
    assert message.content.startswith("{")
    if kind == "json_schema":
        assert json.loads(message.content) == {"x": 17}, "the script says otherwise, the schema decides"


@pytest.mark.parametrize("prompt", ["[json]", "[openjson]<think>"])
def test_native_constraints_begin_after_the_reasoning_if_asked(reciting: Server, prompt: str) -> None:
    schema = json.dumps(
        {"type": "object", "properties": {"x": {"const": 17}}, "required": ["x"], "additionalProperties": False}
    )
    params = {"json_schema": schema, "temperature": 0, "max_new_tokens": 60}
    held = reciting.post("/generate", {"text": prompt, "sampling_params": params})["text"]
    assert held.startswith("{")
    body = {"text": prompt, "sampling_params": params, "require_reasoning": True}
    thought, _, answer = reciting.post("/generate", body)["text"].partition("</think>")
    assert thought == SCRIPTS[prompt].partition("</think>")[0]
    assert json.loads(answer) == {"x": 17}
    free = {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": 60}, "require_reasoning": True}
    assert reciting.post("/generate", free)["text"] == SCRIPTS[prompt]


def test_reasoning_that_is_not_known_cannot_be_required(stories: Server) -> None:
    status, _, body = stories.request("/generate", {"text": "x", "require_reasoning": True})
    assert status == 400
    assert "--reasoning-parser" in str(body)


def test_an_answer_that_goes_on_inside_its_reasoning(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>"}]
    more = {"continue_final_message": True}
    message = client.chat.completions.create(
        model="default", messages=messages, max_tokens=3, temperature=0, extra_body=more
    ).choices[0]
    assert message.message.content == ""


def test_parsing_alone(reciting: Server) -> None:
    info = reciting.get("/model_info")
    assert (info["tool_call_parser"], info["reasoning_parser"]) == ("hermes", "qwen3")
    found = reciting.post("/parse_function_call", {"text": SCRIPTS["[call]"], "tools": TOOLS})
    assert found == {
        "normal_text": "I add them:",
        "calls": [{"tool_index": 0, "name": "add", "parameters": '{"a": 1, "b": 2}'}],
    }
    pythonic = {"text": "[negate(number=4)]", "tools": TOOLS, "tool_call_parser": "pythonic"}
    (call,) = reciting.post("/parse_function_call", pythonic)["calls"]
    assert (call["tool_index"], call["name"], json.loads(call["parameters"])) == (1, "negate", {"number": 4})
    blocks = reciting.post("/separate_reasoning", {"text": f"{THOUGHT}b", "return_blocks": True})
    assert blocks == {
        "reasoning_text": "Let me see.",
        "text": "b",
        "reasoning_blocks": ["Let me see."],
        "text_blocks": ["b"],
        "blocks": [{"type": "reasoning", "text": "Let me see."}, {"type": "text", "text": "b"}],
    }
    kimi = {"text": "◁think▷a◁/think▷b", "reasoning_parser": "kimi"}
    assert reciting.post("/separate_reasoning", kimi) == {"reasoning_text": "a", "text": "b"}
    for path, body in (
        ("/parse_function_call", {"text": "x", "tools": TOOLS, "tool_call_parser": "no_such"}),
        ("/parse_function_call", {"text": "x", "tools": [{"type": "function"}]}),
        ("/separate_reasoning", {"text": "x", "reasoning_parser": "no_such"}),
    ):
        status, _, said = reciting.request(path, body)
        assert status == 400
        assert b"no_such" in said or b"tools" in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tool_choice": "always"}, "none, auto, required"),
        ({"tools": openai.omit, "extra_body": {"json_schema": "{"}}, "json_schema"),
        ({"extra_body": {"json_schema": ""}}, "json_schema"),
        ({"tool_choice": "required", "tools": []}, "there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "divide"}}}, "divide"),
        ({"tool_choice": {"type": "function"}}, "function is missing"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "allows no tool"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "two tools"),
        ({"tools": [{"type": "custom", "function": {"name": "x"}}]}, "function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function is required"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "name"),
        (
            {
                "tool_choice": "required",
                "tools": [function("f", True, x={"type": "array", "uniqueItems": True})],
            },
            "uniqueItems",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_bad_tools_are_refused_by_name(client: OpenAI, more: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, "[plain]", **more)
    assert says in str(e.value)


# -- control tokens as marks -------------------------------------------------------------------------------------------

HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|return|>", "<|call|>")


@pytest.mark.parametrize(
    ("script", "content", "reasoning", "calls"),
    [
        ("<|channel|>final<|message|>Hello there.", "Hello there.", None, []),
        ("<|channel|>analysis<|message|>Thinking it over.", "", "Thinking it over.", []),
        (
            '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 4, "b": 5}<|call|>',
            None,
            None,
            [("add", {"a": 4, "b": 5})],
        ),
    ],
    ids=["final", "analysis", "call"],
)
def test_marks_that_are_control_tokens(
    tmp_path: Any, script: str, content: str | None, reasoning: str | None, calls: list[Any]
) -> None:
    """They are left in the text for the parser, and do not reach the client."""
    folder = reciter(tmp_path / "model", {"[go]": script}, (*HARMONY, "<|constrain|>"))
    with running(str(folder), "--tool-call-parser", "gpt-oss", "--reasoning-parser", "gpt-oss") as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        message = ask(client, "[go]").choices[0].message
        assert (message.content, calls_of(message)) == (content, calls)
        assert message.model_dump().get("reasoning_content") == reasoning


# -- a trained model ---------------------------------------------------------------------------------------------------

CITY = {"type": "string", "maxLength": 20}
REAL = [
    function("get_weather", city=CITY, unit={"enum": ["celsius", "fahrenheit"]}),
    function("get_time", city=CITY),
]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def trained() -> Iterator[OpenAI]:
    with running("--threads", "1") as server:
        yield OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def check(calls: list[Any], tools: list[dict[str, Any]] = REAL) -> list[str]:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
    return [call.function.name for call in calls]


def real(client: OpenAI, seed: int = 0, **more: Any) -> Any:
    body = {"model": "default", "messages": QUESTION, "tools": REAL, "max_tokens": 200, "seed": seed, **more}
    return client.chat.completions.create(**body).choices[0]


def test_the_trained_model_calls_by_itself(trained: OpenAI) -> None:
    tools = [function("get_weather", city={"type": "string"})]
    choice = real(trained, temperature=0, tools=tools)
    assert choice.finish_reason == "tool_calls"
    assert check(choice.message.tool_calls, tools) == ["get_weather"]


def test_the_answer_to_a_tool(trained: OpenAI) -> None:
    """A whole turn: the call goes back with its result, and the model says something about it."""
    tools = [function("get_weather", city={"type": "string"})]
    message = real(trained, temperature=0, tools=tools).message
    result = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": '{"temperature": 21, "sky": "clear"}',
    }
    messages = [*QUESTION, message.model_dump(exclude_none=True), result]
    choice = real(trained, temperature=0, tools=tools, messages=messages)
    assert choice.finish_reason == "stop"
    assert choice.message.content


@pytest.mark.parametrize("seed", range(4))
def test_calls_that_have_to_be(trained: OpenAI, seed: int) -> None:
    """At temperature 1, whatever the model would rather say."""
    assert check(real(trained, seed, tool_choice="required").message.tool_calls)
    named = {"type": "function", "function": {"name": "get_time"}}
    assert check(real(trained, seed, tool_choice=named).message.tool_calls) == ["get_time"]
    one = real(trained, seed, tool_choice="required", parallel_tool_calls=False)
    assert len(check(one.message.tool_calls)) == 1
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    only = real(trained, seed, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert set(check(only.message.tool_calls)) == {"get_weather"}


@pytest.mark.parametrize("seed", range(4))
def test_strict_arguments(trained: OpenAI, seed: int) -> None:
    """The model may call or not; where it calls, the arguments are by the schema."""
    strict = [function("get_weather", True, city=CITY, unit={"enum": ["kelvin", "rankine"]})]
    choice = real(trained, seed, tools=strict, temperature=0.5)
    assert choice.message.tool_calls or choice.message.content
    check(choice.message.tool_calls or [], strict)


@pytest.mark.parametrize("seed", range(4))
def test_a_call_or_json(trained: OpenAI, seed: int) -> None:
    schema = {"type": "object", "properties": {"n": NUMBER}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    strict = [function("get_weather", True, city=CITY, unit={"enum": ["celsius", "fahrenheit"]})]
    message = real(trained, seed, response_format=form, tools=strict).message
    assert message.tool_calls or json.loads(message.content).keys() == {"n"}
    check(message.tool_calls or [], strict)


def test_a_required_call_in_a_stream(trained: OpenAI) -> None:
    async def streamed() -> list[Any]:
        base = str(trained.base_url)
        async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
            body = {"model": "default", "messages": QUESTION, "tools": REAL, "tool_choice": "required", "stream": True}
            return [chunk async for chunk in await client.chat.completions.create(**body, max_tokens=200, seed=1)]

    chunks = asyncio.run(streamed())
    calls: dict[int, str] = {}
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or ():
            calls[call.index] = calls.get(call.index, "") + call.function.arguments
    assert calls
    for arguments in calls.values():
        assert json.loads(arguments)["city"] is not None
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_clients_own_parsing(trained: OpenAI) -> None:
    from pydantic import BaseModel

    class GetWeather(BaseModel):
        city: str
        days: int

    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    choice = trained.chat.completions.parse(
        model="default",
        messages=QUESTION,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
    ).choices[0]
    (call,) = choice.message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
