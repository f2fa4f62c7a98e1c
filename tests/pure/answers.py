"""Answers of models for the tests of tool calls and reasoning: written by hand, and rendered by real chat templates."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from assets import BUNDLED, shared
from ramify.text.reasoning.registry import REASONING_FORMATS
from ramify.text.template import ChatTemplate
from ramify.text.tools.events import CallArguments, CallEnd, CallStart, Event, Reasoning, Text
from ramify.text.tools.parser import NO_REASONING, NO_TOOLS, Formats, Parser
from ramify.text.tools.registry import TOOL_FORMATS
from ramify.text.tools.signatures import Signatures

PARAMETERS = {
    "query": {"type": "string"},
    "limit": {"type": "integer"},
    "ratio": {"type": "number"},
    "exact": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "filters": {"type": "object"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the archive",
            "parameters": {"type": "object", "properties": PARAMETERS, "required": ["query"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    },
]
SIGNATURES = Signatures(TOOLS)

Calls = list[tuple[str, dict[str, Any]]]

HARD: Calls = [
    (
        "search",
        {
            "query": 'the "naïve" \\ {brace] <b> </tool_call> [TOOL_CALLS] 東京 🎈, it\'s',
            "limit": -3,
            "ratio": 2.5e-3,
            "exact": True,
            "tags": ["a, b", "]}", ""],
            "filters": {"deep": [{"x": None}, [[], {}]], "s": "}\n{"},
        },
    ),
    ("now", {}),
    ("search", {"query": "two\nlines", "exact": False}),
]
QUOTELESS: Calls = [  # for a template that puts quotes around values without looking
    ("search", {"query": "東京, [a](b)", "limit": 3, "exact": True, "tags": ["a"], "filters": {"x": [1, None]}}),
    ("now", {}),
]
NUMBERS: Calls = [("search", {"limit": 3, "ratio": 1.5, "exact": True, "filters": {"x": [1, None, {}]}}), ("now", {})]


@dataclass(frozen=True)
class Rendered:
    """A template, and where in its rendering the assistant's answer to the last message begins and ends.

    `calls` are what it can render; `content` and `reasoning` say whether it renders them beside calls.
    """

    path: str
    tools: str
    turn: str
    end: str
    reasoning: str | None = None
    calls: Calls = field(default_factory=lambda: HARD)
    content: bool = True
    thinks: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        if self.path == "bundled":
            return (BUNDLED / "chat_template.jinja").read_text()
        return shared(f"templates/{self.path}").read_text()

    @cached_property
    def answer(self) -> str:
        message: dict[str, Any] = {"role": "assistant", "content": CONTENT if self.content else ""}
        if self.thinks:
            message["reasoning_content"] = THOUGHT
        message["tool_calls"] = [
            {"id": f"abcdef{n:03}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(self.calls)
        ]
        conversation = [{"role": "user", "content": "Well?"}, message]
        full = ChatTemplate(self.source, NAMES).render(conversation, TOOLS, add_generation_prompt=False, **self.options)
        assert self.turn in full
        return full.rpartition(self.turn)[2].partition(self.end)[0]

    def parser(self, **more: Any) -> Parser:
        return parser(self.tools, self.reasoning, **more)


CONTENT = "Let me look."
THOUGHT = "I have to look <tool_call>, {or not}."
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

IM = ("<|im_start|>assistant\n", "<|im_end|>")
LLAMA = ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>")
LLAMA4 = ("<|header_start|>assistant<|header_end|>\n\n", "<|eot|>")
INST = ("[/INST]", "</s>")
DEEPSEEK = ("<｜Assistant｜>", "<｜end▁of▁sentence｜>")
COHERE = ("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>")
ONE = HARD[:1]

RENDERED = [
    Rendered("bundled", "hermes", *IM),
    Rendered("chat_templates/chat_templates/qwen2.5-instruct.jinja", "hermes", *IM),
    Rendered("llama.cpp/Qwen-Qwen2.5-7B-Instruct.jinja", "qwen25", *IM),
    Rendered("llama.cpp/Qwen-Qwen3-0.6B.jinja", "hermes", *IM, "qwen3", thinks=True),
    Rendered("llama.cpp/Qwen-QwQ-32B.jinja", "hermes", *IM, "qwen3"),
    Rendered("llama.cpp/Bielik-11B-v3.0-Instruct.jinja", "hermes", *IM, "qwen3", thinks=True),
    Rendered("llama.cpp/MiMo-VL.jinja", "hermes", *IM),
    Rendered("llama.cpp/Reka-Edge.jinja", "hermes", "<sep>assistant: ", "<sep>", "qwen3"),
    Rendered("llama.cpp/NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja", "hermes", *IM, content=False),
    Rendered("llama.cpp/NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja", "hermes", *IM, content=False),
    Rendered("vllm/tool_chat_template_hermes.jinja", "hermes", *IM, content=False),
    Rendered("llama.cpp/Qwen3-Coder.jinja", "qwen3_coder", *IM),
    Rendered("llama.cpp/Qwen3.5-4B.jinja", "qwen3_coder", *IM, "qwen3", thinks=True),
    Rendered("llama.cpp/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja", "qwen3_coder", *IM, "nemotron_3", thinks=True),
    Rendered("llama.cpp/StepFun3.5-Flash.jinja", "step3p5", *IM, "step3p5", thinks=True),
    Rendered("llama.cpp/stepfun-ai-Step-3.5-Flash.jinja", "qwen3_coder", *IM, "step3p5", thinks=True),
    Rendered(
        "llama.cpp/ByteDance-Seed-OSS.jinja", "seed_oss", "<seed:bos>assistant\n", "<seed:eos>", "seed_oss", thinks=True
    ),
    Rendered("llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja", "llama3", *LLAMA, calls=ONE, content=False),
    Rendered("llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja", "llama3", *LLAMA, calls=ONE, content=False),
    Rendered("llama.cpp/meta-llama-Llama-3.3-70B-Instruct.jinja", "llama3", *LLAMA, calls=ONE, content=False),
    Rendered("vllm/tool_chat_template_llama3.1_json.jinja", "llama3", *LLAMA, calls=ONE, content=False),
    Rendered("vllm/tool_chat_template_llama3.2_json.jinja", "llama3", *LLAMA, calls=ONE, content=False),
    Rendered("vllm/tool_chat_template_llama4_json.jinja", "llama3", *LLAMA4, content=False),
    Rendered("vllm/tool_chat_template_llama4_pythonic.jinja", "pythonic", *LLAMA4, calls=QUOTELESS),
    Rendered("vllm/tool_chat_template_llama3.2_pythonic.jinja", "pythonic", *LLAMA, calls=NUMBERS, content=False),
    Rendered(
        "vllm/tool_chat_template_toolace.jinja",
        "pythonic",
        "Well?<|eot_id|>" + LLAMA[0],
        LLAMA[1],
        calls=NUMBERS,
        content=False,
    ),
    Rendered("llama.cpp/mistralai-Mistral-Nemo-Instruct-2407.jinja", "mistral", *INST, content=False),
    Rendered("vllm/tool_chat_template_mistral.jinja", "mistral", *INST, content=False),
    Rendered("vllm/tool_chat_template_mistral3.jinja", "mistral", *INST, content=False),
    Rendered("vllm/tool_chat_template_mistral_parallel.jinja", "mistral", *INST, content=False),
    Rendered("llama.cpp/Mistral-Small-3.2-24B-Instruct-2506.jinja", "mistral11", *INST, content=False),
    Rendered("llama.cpp/unsloth-mistral-Devstral-Small-2507.jinja", "mistral", *INST),
    Rendered("llama.cpp/mistralai-Ministral-3-14B-Reasoning-2512.jinja", "mistral11", *INST, "mistral"),
    Rendered("vllm/tool_chat_template_deepseekv3.jinja", "deepseekv3", *DEEPSEEK),
    Rendered("vllm/tool_chat_template_deepseekr1.jinja", "deepseekv3", *DEEPSEEK, "deepseek-v3"),
    Rendered("llama.cpp/deepseek-ai-DeepSeek-V3.1.jinja", "deepseekv31", *DEEPSEEK, "deepseek-v3"),
    Rendered(
        "llama.cpp/deepseek-ai-DeepSeek-V3.2.jinja",
        "deepseekv32",
        *DEEPSEEK,
        "deepseek-v3",
        thinks=True,
        options={"thinking": True},
    ),
    Rendered(
        "llama.cpp/deepseek-ai-DeepSeek-V4.jinja",
        "deepseekv4",
        *DEEPSEEK,
        "deepseek-v4",
        thinks=True,
        options={"thinking": True},
    ),
    Rendered("llama.cpp/GLM-4.6.jinja", "glm45", "<|assistant|>", "<|user|>", "glm45", thinks=True),
    Rendered("llama.cpp/GLM-4.7-Flash.jinja", "glm47", "<|assistant|>", "<|user|>", "glm45", thinks=True),
    Rendered("llama.cpp/GLM-5.2.jinja", "glm45", "<|assistant|>", "<|user|>", "glm45", thinks=True),
    Rendered("llama.cpp/moonshotai-Kimi-K2.jinja", "kimi_k2", "assistant<|im_middle|>", "<|im_end|>"),
    Rendered(
        "llama.cpp/openai-gpt-oss-120b.jinja",
        "gpt-oss",
        "<|start|>assistant",
        "<|call|>",
        "gpt-oss",
        calls=ONE,
        content=False,
    ),
    Rendered(
        "llama.cpp/google-gemma-4-31B-it.jinja",
        "gemma4",
        "<|turn>model\n",
        "<|tool_response>",
        "gemma4",
        content=False,
        thinks=True,
    ),
    Rendered(
        "llama.cpp/google-gemma-4-31B-it-interleaved.jinja",
        "gemma4",
        "<|turn>model\n",
        "<turn|>",
        "gemma4",
        content=False,
        thinks=True,
    ),
    Rendered(
        "vllm/tool_chat_template_granite.jinja",
        "granite",
        "assistant<|end_of_role|>",
        "<|end_of_text|>",
        content=False,
    ),
    Rendered(
        "vllm/tool_chat_template_granite_20b_fc.jinja", "granite-20b-fc", "ASSISTANT:", "<|endoftext|>", content=False
    ),
    Rendered("vllm/tool_chat_template_internlm2_tool.jinja", "interns1", *IM),
    Rendered(
        "llama.cpp/Apertus-8B-Instruct.jinja", "apertus2509", "<|assistant_start|>", "<|assistant_end|>", "apertus2509"
    ),
    Rendered("llama.cpp/unsloth-Apriel-1.5.jinja", "apriel", "<|assistant|>\n", "<|end|>", "apriel"),
    Rendered("llama.cpp/Cohere2MoE.jinja", "cohere_command4", *COHERE, "cohere_command4", content=False, thinks=True),
    Rendered(
        "llama.cpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja",
        "cohere_command4",
        "Well?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        COHERE[1],
        "cohere_command4",
        content=False,
        thinks=True,
    ),
    Rendered("llama.cpp/GigaChat3-10B-A1.8B.jinja", "gigachat3", "assistant<|role_sep|>\n", "<|im_end|>", calls=ONE),
    Rendered("llama.cpp/meetkai-functionary-medium-v3.1.jinja", "functionary", *LLAMA[:1], "<|eom_id|>"),
]


# Two calls in each format, without and with arguments, as its models write them: short, for tests that try everything.
QUERY = '{"query": "a}", "limit": 7}'
NOW, SEARCH = '{"name": "now", "arguments": {}}', f'{{"name": "search", "arguments": {QUERY}}}'
NOW_P, SEARCH_P = NOW.replace("arguments", "parameters"), SEARCH.replace("arguments", "parameters")
NOW_T, SEARCH_T = NOW_P.replace("name", "tool_name"), SEARCH_P.replace("name", "tool_name")
DSML = (
    '\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n<｜DSML｜invoke name="search">\n'
    '<｜DSML｜parameter name="query" string="true">a}</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="limit" string="false">7</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
)
WRITTEN = {
    "apertus2509": f'<|tools_prefix|>[{{"now": {{}}}}, {{"search": {QUERY}}}]<|tools_suffix|>',
    "apriel": f"<tool_calls>[{NOW},{SEARCH}]</tool_calls>",
    "cohere_command4": f'<|START_ACTION|>[\n {NOW_T},\n {{"tool_call_id": "1", {SEARCH_T[1:]}\n]<|END_ACTION|>',
    "command-r": f"Action:\n```json\n[\n {NOW_T},\n {SEARCH_T}\n]\n```",
    "deepseekv3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
        f"\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n{QUERY}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>"
    ),
    "deepseekv31": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
        f"<｜tool▁call▁begin｜>search<｜tool▁sep｜>{QUERY}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseekv32": f"<｜DSML｜function_calls>{DSML}</｜DSML｜function_calls>",
    "deepseekv4": f"<｜DSML｜tool_calls>{DSML}</｜DSML｜tool_calls>",
    "functionary": f"<function=now>{{}}</function><function=search>{QUERY}</function>",
    "functiongemma": (
        "<start_function_call>call:now{}<end_function_call>"
        "<start_function_call>call:search{query:<escape>a}<escape>,limit:7}<end_function_call>"
    ),
    "gemma3": '```tool_code\nnow()\nsearch(query="a}", limit=7)\n```',
    "gemma4": '<|tool_call>call:now{}<tool_call|><|tool_call>call:search{query:<|"|>a}<|"|>,limit:7}<tool_call|>',
    "gigachat3": f"<|function_call|>{NOW}<|message_sep|>\n\nfunction call<|role_sep|>\n{SEARCH}",
    "glm45": (
        "<tool_call>now\n</tool_call>\n<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>a}</arg_value>\n"
        "<arg_key>limit</arg_key>\n<arg_value>7</arg_value>\n</tool_call>"
    ),
    "gpt-oss": (
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
        f"<|start|>assistant to=functions.search<|channel|>commentary json<|message|>{QUERY}<|call|>"
    ),
    "granite": f"<|tool_call|>[{NOW}, {SEARCH}]",
    "granite-20b-fc": f"<function_call> {NOW}\n<function_call> {SEARCH}",
    "hermes": f"<tool_call>\n{NOW}\n</tool_call>\n<tool_call>\n{SEARCH}\n</tool_call>",
    "interns1": (
        f"<|action_start|><|plugin|>\n{NOW_P}<|action_end|><|action_start|> <|plugin|>\n{SEARCH_P}<|action_end|>"
    ),
    "json": f"[{NOW_P}, {SEARCH_P}]",
    "kimi_k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
        f"<|tool_call_begin|>functions.search:1<|tool_call_argument_begin|>{QUERY}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    ),
    "lfm2": '<|tool_call_start|>[now(), search(query="a}", limit=7)]<|tool_call_end|>',
    "llama3": f"<|python_tag|>{NOW_P}; {SEARCH_P}",
    "minimax-m2": (
        '<minimax:tool_call>\n<invoke name="now">\n</invoke>\n<invoke name="search">\n'
        '<parameter name="query">a}</parameter>\n<parameter name="limit">7</parameter>\n</invoke>\n'
        "</minimax:tool_call>"
    ),
    "mirothinker": (
        "<use_mcp_tool>\n<server_name>t</server_name>\n<tool_name>now</tool_name>\n<arguments>\n{}\n</arguments>"
        "\n</use_mcp_tool>\n<use_mcp_tool>\n<server_name>t</server_name>\n<tool_name>search</tool_name>\n"
        f"<arguments>\n{QUERY}\n</arguments>\n</use_mcp_tool>"
    ),
    "mistral": f"[TOOL_CALLS] [{NOW}, {SEARCH}]",
    "mistral11": f"[TOOL_CALLS]now[ARGS]{{}}[TOOL_CALLS]search[CALL_ID]abcdef012[ARGS]{QUERY}",
    "phi4": f"functools[{NOW}, {SEARCH}]",
    "pythonic": "[now(), search(query='a}', limit=7)]",
    "qwen3_coder": (
        "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=search>\n"
        "<parameter=query>\na}\n</parameter>\n<parameter=limit>\n7\n</parameter>\n</function>\n</tool_call>"
    ),
    "seed_oss": (
        "<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=search>\n"
        "<parameter=query>a}</parameter>\n<parameter=limit>7</parameter>\n</function>\n</seed:tool_call>"
    ),
    "step3": (
        "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
        '<steptml:invoke name="now"></steptml:invoke><｜tool_call_end｜>'
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="search">'
        '<steptml:parameter name="query">a}</steptml:parameter>'
        '<steptml:parameter name="limit">7</steptml:parameter></steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>'
    ),
}
WRITTEN_CALLS: Calls = [("now", {}), ("search", {"query": "a}", "limit": 7})]


@cache
def formats(tools: str | None, reasoning: str | None) -> Formats:
    return Formats(
        TOOL_FORMATS[tools] if tools else NO_TOOLS, REASONING_FORMATS[reasoning] if reasoning else NO_REASONING
    )


def parser(tools: str | None = None, reasoning: str | None = None, **more: Any) -> Parser:
    """Knows `TOOLS`; numbers the calls it names itself."""
    numbers = iter(range(10**9))
    more = {"signatures": SIGNATURES, "new_id": lambda: f"call_{next(numbers)}"} | more
    return Parser(formats(tools, reasoning), **more)


def feed(made: Parser, pieces: list[str]) -> list[Event]:
    """All events, the last ones included."""
    return [event for piece in pieces for event in made.feed(piece)] + made.finish()


def atoms(events: list[Event]) -> list[tuple[Any, ...]]:
    """Events cut as small as can be: the same for any two streams that say the same in the same order."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case Text(text):
                found += [("text", character) for character in text]
            case Reasoning(text):
                found += [("reasoning", character) for character in text]
            case CallArguments(index, text):
                found += [(index, character) for character in text]
            case CallStart() | CallEnd():
                found.append((event,))
    return found


def calls_of(events: list[Event]) -> Calls:
    """The whole calls; asserts that they are begun, continued and ended in order."""
    names: list[str] = []
    arguments: list[str] = []
    ended: dict[int, bool] = {}
    for event in events:
        match event:
            case CallStart(index=index, name=name):
                assert index == len(names) == len(ended)
                names.append(name)
                arguments.append("")
            case CallArguments(index=index, json=text):
                assert index == len(names) - 1 == len(ended)
                arguments[index] += text
            case CallEnd(index=index, complete=complete):
                assert index == len(names) - 1 == len(ended)
                ended[index] = complete
    assert len(ended) == len(names)
    return [(names[n], json.loads(arguments[n])) for n, complete in ended.items() if complete]


def content_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def reasoning_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Reasoning))


def real_templates() -> list[Path]:
    return sorted(shared("templates").glob("**/*.jinja"))
