"""Tool-call formats that look like calls in a programming language."""

from __future__ import annotations

from ramify.text.tools.bodies import Keywords, Value
from ramify.text.tools.format import Shape, ToolFormat
from ramify.text.tools.json_formats import LLAMA_OBJECT
from ramify.text.tools.parts import Maybe, Name
from ramify.text.tools.values import LOOSE_WORDS, Dialect

CALL = (Name(), "(")

LIST = Shape(
    *CALL,
    body=Keywords(),
    after=(")",),
    begin=(Maybe("<|python_start|>"), "["),
    separators=(", ",),
    end=("]", "<|python_end|>"),
    anywhere=True,
)
PYTHONIC = ToolFormat(
    "pythonic",
    (LIST,),
    signs=(("<|python_start|>",), ("func_name1(params_name1=params_value1",), ("[func_name1(",)),
)

LFM2 = ToolFormat(
    "lfm2",
    (
        Shape(
            *CALL,
            body=Keywords(),
            after=(")",),
            begin=("<|tool_call_start|>[",),
            separators=(", ",),
            end=("]", "<|tool_call_end|>"),
        ),
    ),
    signs=(("<|tool_list_start|>",), ("<|tool_call_start|>",), ("List of tools: [",)),
)

# Gemma 3 has no notation of its own: its guide asks for one of these in the prompt.
GEMMA3 = ToolFormat(
    "gemma3",
    (
        LIST,
        Shape(*CALL, body=Keywords(), after=(")",), begin=("```tool_code\n",), separators=("\n",), end=("\n```",)),
        Shape(Maybe("```json\n"), body=LLAMA_OBJECT, after=("\n```",)),
    ),
)

GEMMA4 = ToolFormat(
    "gemma4",
    (
        Shape(
            "<|tool_call>call:",
            Name(),
            body=Value(Dialect(('<|"|>',), LOOSE_WORDS, {}, bare_keys=True)),
            after=("<tool_call|>",),
            separators=("",),
        ),
    ),
    signs=(("<|tool_call>", "<tool_call|>"),),
)
FUNCTION_GEMMA = ToolFormat(
    "functiongemma",
    (
        Shape(
            "<start_function_call>call:",
            Name(),
            body=Value(Dialect(("<escape>",), LOOSE_WORDS, {}, bare_keys=True)),
            after=("<end_function_call>",),
            separators=("",),
        ),
    ),
    signs=(("<start_function_call>",),),
)
