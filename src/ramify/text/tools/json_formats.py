"""Tool-call formats whose arguments are JSON."""

from __future__ import annotations

import re

from ramify.text.tools.bodies import Object, Value
from ramify.text.tools.format import Shape, ToolFormat
from ramify.text.tools.parts import Id, Maybe, Name, NameInId, OneOf, Skipped

HERMES = ToolFormat(
    "hermes",
    (Shape("<tool_call>\n", body=Object(), after=("\n</tool_call>",), separators=("\n",)),),
    signs=(("<tool_call>", "</tool_call>"),),
)

LLAMA_OBJECT = Object(("name", "function"), ("parameters", "arguments"))
LLAMA3 = ToolFormat(
    "llama3",
    (
        Shape(Maybe("<|python_tag|>"), body=LLAMA_OBJECT, separators=("; ", ", ", "")),
        Shape(body=LLAMA_OBJECT, begin=(Maybe("<|python_tag|>"), "["), separators=(", ",), end=("]",)),
    ),
    signs=(
        ("<|python_tag|>", '"parameters": '),
        ("<|start_header_id|>", '"parameters": '),
        ("<|header_start|>", '"parameters": '),
    ),
)

MISTRAL_LIST = Shape(body=Object(), begin=("[TOOL_CALLS] [",), separators=(", ",), end=("]",))
MISTRAL_ARGS = Shape(
    "[TOOL_CALLS]", Name(), Maybe("[CALL_ID]", Id()), Maybe("[ARGS]", written=True), body=Value(), separators=("",)
)
MISTRAL = ToolFormat("mistral", (MISTRAL_LIST, MISTRAL_ARGS), signs=(("[TOOL_CALLS]",),), ids="nine")
MISTRAL_11 = ToolFormat("mistral11", (MISTRAL_ARGS, MISTRAL_LIST), signs=(("[TOOL_CALLS]", "[ARGS]"),), ids="nine")

DEEPSEEK_V3 = ToolFormat(
    "deepseekv3",
    (
        Shape(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            Name(),
            "\n```json\n",
            body=Value(),
            after=("\n```", "<｜tool▁call▁end｜>"),
            begin=("<｜tool▁calls▁begin｜>",),
            separators=("\n",),
            end=("<｜tool▁calls▁end｜>",),
        ),
    ),
    signs=(("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "```json"),),
)

DEEPSEEK_V31 = ToolFormat(
    "deepseekv31",
    (
        Shape(
            "<｜tool▁call▁begin｜>",
            Name(),
            "<｜tool▁sep｜>",
            body=Value(),
            after=("<｜tool▁call▁end｜>",),
            begin=("<｜tool▁calls▁begin｜>",),
            separators=("",),
            end=("<｜tool▁calls▁end｜>",),
        ),
    ),
    signs=(("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"),),
)

KIMI_K2 = ToolFormat(
    "kimi_k2",
    (
        Shape(
            "<|tool_call_begin|>",
            NameInId(re.compile(r"(?:functions\.)?(?P<name>.+?):\d+"), "functions.{name}:{number}"),
            "<|tool_call_argument_begin|>",
            body=Value(),
            after=("<|tool_call_end|>",),
            begin=("<|tool_calls_section_begin|>",),
            separators=("",),
            end=("<|tool_calls_section_end|>",),
        ),
    ),
    signs=(("<|tool_calls_section_begin|>",),),
)

# The recipient stands in the head of the message, before the channel or after it.
RECIPIENT = (" to=functions.", Name())
GPT_OSS = ToolFormat(
    "gpt-oss",
    (
        Shape(
            "<|channel|>commentary to=functions.",
            Name(),
            Maybe(" <|constrain|>", written=True),
            Maybe("json", written=True),
            "<|message|>",
            body=Value(),
            after=(OneOf("<|call|>", "<|end|>", "<|return|>"),),
            trigger="<|channel|>commentary to=",
        ),
        Shape(
            Maybe("<|start|>assistant"),
            Maybe(*RECIPIENT),
            "<|channel|>",
            OneOf("commentary", "analysis"),
            Maybe(*RECIPIENT),
            Maybe(" <|constrain|>"),
            Maybe(" json"),
            "<|message|>",
            body=Value(),
            after=(OneOf("<|call|>", "<|end|>", "<|return|>"),),
        ),
    ),
    signs=(("<|channel|>", "<|call|>"),),
)

GRANITE = ToolFormat(
    "granite",
    (
        Shape(body=Object(), begin=("<|tool_call|>[",), separators=(", ",), end=("]",)),
        Shape(body=Object(), begin=("<tool_call>[",), separators=(", ",), end=("]", "</tool_call>")),
        Shape("<tool_call>\n", body=Object(), after=("\n</tool_call>",)),
    ),
    signs=(("<|tool_call|>", "<|start_of_role|>"), ("<|start_of_role|>", "available_tools")),
)
GRANITE_20B = ToolFormat(
    "granite-20b-fc", (Shape("<function_call> ", body=Object(), separators=("\n",)),), signs=(("<function_call>",),)
)

PHI4 = ToolFormat(
    "phi4",
    (
        Shape(body=Object(), begin=("functools[",), separators=(", ",), end=("]",)),
        Shape(body=Object(), begin=("<|tool_call|>", "["), separators=(", ",), end=("]", "<|/tool_call|>")),
    ),
    signs=(("functools[",), ("<|/tool_call|>",)),
)

APERTUS = ToolFormat(
    "apertus2509",
    (
        Shape(
            '{"',
            Name(),
            '": ',
            body=Value(),
            after=("}",),
            begin=("<|tools_prefix|>[",),
            separators=(", ",),
            end=("]", "<|tools_suffix|>"),
        ),
    ),
    signs=(("<|tools_prefix|>", "<|tools_suffix|>"),),
)

COHERE_OBJECT = Object(("tool_name",), ("parameters",), (), ("tool_call_id",))
COHERE = ToolFormat(
    "cohere_command4",
    (Shape(body=COHERE_OBJECT, begin=("<|START_ACTION|>[",), separators=(", ",), end=("]", "<|END_ACTION|>")),),
    signs=(("<|START_ACTION|>", "<|END_ACTION|>"),),
)
COMMAND_R = ToolFormat(
    "command-r",
    (Shape(body=COHERE_OBJECT, begin=("Action:\n```json\n[",), separators=(", ",), end=("]", "\n```")),),
    signs=(("Action:", "```json", "tool_name"),),
)

APRIEL = ToolFormat(
    "apriel",
    (Shape(body=Object(), begin=("<tool_calls>[",), separators=(", ",), end=("]", "</tool_calls>")),),
    signs=(("<tool_calls>", "</tool_calls>"),),
)

INTERN = ToolFormat(
    "interns1",
    (
        Shape(
            "<|action_start|>", Maybe(" "), "<|plugin|>\n", body=Object(), after=("<|action_end|>",), separators=("",)
        ),
    ),
    signs=(("<|action_start|>", "<|plugin|>"),),
)

GIGACHAT3 = ToolFormat(
    "gigachat3",
    (
        Shape(Maybe("<|message_sep|>\n\n"), "function call<|role_sep|>\n", body=Object(), after=("<|message_sep|>",)),
        Shape("<|function_call|>", body=Object(), after=("<|message_sep|>",)),
    ),
    signs=(("function call", "<|role_sep|>"),),
)

FUNCTIONARY = ToolFormat(
    "functionary",
    (Shape("<function=", Name(), ">", body=Value(), after=("</function>",), separators=("",)),),
    signs=(("<function=", "</function>"),),
)
MIRO = ToolFormat(
    "mirothinker",
    (
        Shape(
            "<use_mcp_tool>\n<server_name>",
            Skipped("tools"),
            "</server_name>\n<tool_name>",
            Name(),
            "</tool_name>\n<arguments>\n",
            body=Value(),
            after=("\n</arguments>", "\n</use_mcp_tool>"),
        ),
    ),
    signs=(("<use_mcp_tool>", "<tool_name>"),),
)

# What a grammar can ask of any model, also one that was never taught to call tools.
PLAIN_JSON = ToolFormat(
    "json",
    (
        Shape(body=LLAMA_OBJECT, begin=("[",), separators=(", ",), end=("]",)),
        Shape(body=LLAMA_OBJECT),
    ),
)
