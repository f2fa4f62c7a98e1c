"""The table of formats: names, plugins, and what a grammar needs to know of each."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from answers import TOOLS, WRITTEN, WRITTEN_CALLS, calls_of, content_of, feed, parser

from ramify.core import registry
from ramify.text.reasoning.format import ReasoningFormat
from ramify.text.reasoning.registry import REASONING_FORMATS
from ramify.text.tools.bodies import Pairs
from ramify.text.tools.format import Frame, ToolFormat
from ramify.text.tools.parser import Formats, Parser
from ramify.text.tools.registry import TOOL_FORMATS

SGLANG_TOOLS = """
    apertus2509 cohere_command4 deepseekv3 deepseekv31 deepseekv32 deepseekv4 gemma4 gigachat3 glm glm45 glm47 gpt-oss
    hermes hunyuan interns1 kimi_k2 lfm2 llama3 mimo minimax-m2 mistral pythonic qwen qwen25 qwen3_coder step3 step3p5
""".split()
SGLANG_REASONING = """
    apertus2509 cohere_command4 deepseek-r1 deepseek-v3 deepseek-v4 gemma4 glm45 gpt-oss granite_thinking_parser hunyuan
    interns1 kimi kimi_k2 mimo minimax mistral nemotron_3 qwen3 qwen3-thinking step3 step3p5
""".split()


def test_names_of_sglang() -> None:
    assert set(SGLANG_TOOLS) <= set(TOOL_FORMATS)
    assert set(SGLANG_REASONING) <= set(REASONING_FORMATS)


def test_every_name_leads_to_a_format() -> None:
    assert all(isinstance(TOOL_FORMATS[name], ToolFormat) for name in TOOL_FORMATS)
    assert all(isinstance(REASONING_FORMATS[name], ReasoningFormat) for name in REASONING_FORMATS)
    assert {TOOL_FORMATS[name].name for name in TOOL_FORMATS} <= set(TOOL_FORMATS)
    assert {REASONING_FORMATS[name].name for name in REASONING_FORMATS} <= set(REASONING_FORMATS)


def test_a_format_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("tools.theirs", "ramify.text.tools.json_formats:KIMI_K2", "ramify.plugins")
    monkeypatch.setattr(registry, "entry_points", lambda group: [theirs] if group == "ramify.plugins" else [])
    formats: registry.Registry[ToolFormat] = registry.Registry("tools", {})
    assert list(formats) == ["theirs"]
    made = Parser(Formats(formats["theirs"]))
    assert calls_of(feed(made, [WRITTEN["kimi_k2"]])) == WRITTEN_CALLS


def test_special_tokens_that_the_parser_needs() -> None:
    kimi = Formats(TOOL_FORMATS["kimi_k2"], REASONING_FORMATS["kimi_k2"])
    needed = [
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ]
    assert all(map(kimi.needs, [*needed, "<|tool_calls_section_end|>", "<think>", "</think>"]))
    assert not any(map(kimi.needs, ["<|im_end|>", "<|tool_call|>", "[EOS]"]))
    assert not any(map(kimi.without_tools.needs, needed[1:]))
    harmony = Formats(TOOL_FORMATS["gpt-oss"], REASONING_FORMATS["gpt-oss"])
    tokens = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"]
    assert all(map(harmony.needs, tokens))
    assert Formats(TOOL_FORMATS["gemma4"]).needs('<|"|>')
    assert Formats(TOOL_FORMATS["glm45"]).needs("</arg_key>")
    assert not Formats().needs("<think>")


FORMATS = sorted({TOOL_FORMATS[name].name for name in TOOL_FORMATS})


def write(frame: Frame, arguments: list[str]) -> str:
    calls = [frame.before + one + frame.after for one in arguments]
    if frame.separator is None:
        return "\n".join(frame.begin + call + frame.end for call in calls)
    return frame.begin + frame.separator.join(calls) + frame.end


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_grammar_would_write_is_read(name: str) -> None:
    """With the arguments where a JSON schema would stand, once and twice."""
    frame = TOOL_FORMATS[name].frame("search", 0)
    arguments = {"json": '{"limit": 7}', "keywords": "limit=7", "braces": "{limit:7}"}.get(frame.kind)
    if arguments is None:
        assert isinstance(frame.body, Pairs)
        arguments = f"{frame.body.open}limit{frame.body.between}7{frame.body.end}"
        if frame.body.flag:
            arguments = arguments.replace("limit", f"limit{frame.body.flag}false")
    assert calls_of(feed(parser(name), list(write(frame, [arguments])))) == [("search", {"limit": 7})]
    events = feed(parser(name), list(write(frame, [arguments, arguments])))
    assert calls_of(events) == [("search", {"limit": 7})] * 2
    assert content_of(events) == ""


@pytest.mark.parametrize("name", FORMATS)
def test_a_trigger_begins_every_call(name: str) -> None:
    frames = [TOOL_FORMATS[name].frame(tool["function"]["name"], number) for number, tool in enumerate(TOOLS)]  # type: ignore[index]
    assert len({frame.trigger for frame in frames}) == 1
    for frame in frames:
        assert (frame.begin + frame.before).startswith(frame.trigger)
    assert all(frame.trigger for frame in frames) or name in ("gemma3", "json", "llama3", "pythonic")


def test_frames() -> None:
    hermes = TOOL_FORMATS["hermes"].frame("f")
    assert (hermes.kind, hermes.trigger, hermes.begin, hermes.end) == ("json", "<tool_call>", "", "")
    assert hermes.before == '<tool_call>\n{"name": "f", "arguments": '
    assert hermes.after == "}\n</tool_call>"
    mistral = TOOL_FORMATS["mistral"].frame("f")
    assert (mistral.begin, mistral.separator, mistral.end) == ("[TOOL_CALLS] [", ", ", "]")
    kimi = TOOL_FORMATS["kimi_k2"].frame("f", 3)
    assert kimi.before == "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>"
    harmony = TOOL_FORMATS["gpt-oss"].frame("f")
    assert harmony.before == "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    assert harmony.trigger == "<|channel|>commentary to="
    assert TOOL_FORMATS["glm45"].frame("f").kind == "pairs"
    assert TOOL_FORMATS["pythonic"].frame("f").before == "f("
