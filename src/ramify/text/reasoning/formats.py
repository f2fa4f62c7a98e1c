"""Reasoning formats, as a table."""

from __future__ import annotations

from ramify.text.reasoning.format import ReasoningFormat

THINK = ("<think>",)
THOUGHT = ("</think>",)

DEEPSEEK_R1 = ReasoningFormat(
    "deepseek-r1",
    THINK,
    THOUGHT,
    always=True,
    cut=("<｜tool▁calls▁begin｜>",),
    signs=(("<｜Assistant｜><think>",), ("<｜Assistant｜>", "</think>", "```json")),
)
DEEPSEEK_V3 = ReasoningFormat(
    "deepseek-v3",
    THINK,
    THOUGHT,
    cut=("<｜tool▁calls▁begin｜>", "<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
    signs=(("<｜Assistant｜>", "</think>", "thinking is defined"), ("</think>", "｜DSML｜")),
)
QWEN3 = ReasoningFormat("qwen3", THINK, THOUGHT, cut=("<tool_call>",), signs=(("</think>",), ("<think>",)))
QWEN3_THINKING = ReasoningFormat("qwen3-thinking", THINK, THOUGHT, always=True, cut=("<tool_call>",))
GLM45 = ReasoningFormat("glm45", THINK, THOUGHT, cut=("<tool_call>",), signs=(("</think>", "<arg_key>"),))
NEMOTRON_3 = ReasoningFormat(
    "nemotron_3", THINK, THOUGHT, cut=("<tool_call>",), signs=(("</think>", "truncate_history_thinking"),)
)
KIMI = ReasoningFormat("kimi", ("◁think▷",), ("◁/think▷",), signs=(("◁think▷",),))
KIMI_K2 = ReasoningFormat(
    "kimi_k2",
    THINK,
    THOUGHT,
    cut=("<|tool_calls_section_begin|>",),
    signs=(("</think>", "<|tool_calls_section_begin|>"),),
)
STEP3 = ReasoningFormat(
    "step3", THINK, THOUGHT, always=True, cut=("<｜tool_calls_begin｜>",), signs=(("</think>", "<steptml:"),)
)
STEP3P5 = ReasoningFormat(
    "step3p5", THINK, THOUGHT, always=True, cut=("<tool_call>",), signs=(("</think>", "<|im_start|>tool_response"),)
)
MINIMAX = ReasoningFormat(
    "minimax", THINK, THOUGHT, always=True, cut=("<minimax:tool_call>",), signs=(("</think>", "<minimax:tool_call>"),)
)
HUNYUAN = ReasoningFormat(
    "hunyuan",
    THINK,
    THOUGHT,
    cut=("<tool_calls>",),
    frame=("<answer>", "</answer>"),
    signs=(("</think>", "<answer>"),),
)
GRANITE = ReasoningFormat(
    "granite",
    ("<think>", "Here is my thought process:", "Here's my thought process:"),
    ("</think>", "Here is my response:", "Here's my response:"),
    frame=("<response>", "</response>"),
    signs=(("</think>", "<response>", "<|start_of_role|>"),),
)
MISTRAL = ReasoningFormat("mistral", ("[THINK]",), ("[/THINK]",), signs=(("[THINK]",),))
SEED_OSS = ReasoningFormat(
    "seed_oss", ("<seed:think>",), ("</seed:think>",), cut=("<seed:tool_call>",), signs=(("<seed:think>",),)
)
GEMMA4 = ReasoningFormat(
    "gemma4", ("<|channel>thought\n",), ("<channel|>",), repeats=True, signs=(("<|channel>", "<channel|>"),)
)
COHERE = ReasoningFormat(
    "cohere_command4",
    ("<|START_THINKING|>",),
    ("<|END_THINKING|>",),
    always=True,
    cut=("<|START_ACTION|>",),
    frame=("<|START_TEXT|>", "<|END_TEXT|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    signs=(("<|START_THINKING|>", "<|END_THINKING|>"),),
)
APERTUS = ReasoningFormat(
    "apertus2509",
    ("<|inner_prefix|>",),
    ("<|inner_suffix|>",),
    repeats=True,
    cut=("<|tools_prefix|>",),
    signs=(("<|inner_prefix|>", "<|inner_suffix|>"),),
)
APRIEL = ReasoningFormat(
    "apriel",
    ("Here are my reasoning steps:",),
    ("[BEGIN FINAL RESPONSE]",),
    cut=("<tool_calls>",),
    frame=("[END FINAL RESPONSE]",),
    signs=(("[BEGIN FINAL RESPONSE]",),),
)
GPT_OSS = ReasoningFormat(
    "gpt-oss",
    ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>analysis<|message|>"),
    ("<|end|>", "<|return|>"),
    repeats=True,
    frame=(
        "<|start|>assistant<|channel|>final <|constrain|>json<|message|>",
        "<|start|>assistant<|channel|>final<|message|>",
        "<|start|>assistant<|channel|>commentary<|message|>",
        "<|channel|>final <|constrain|>json<|message|>",
        "<|channel|>final<|message|>",
        "<|channel|>commentary<|message|>",
        "<|end|>",
        "<|return|>",
    ),
    resume="<|start|>assistant",
    head="<|channel|>final<|message|>",
    signs=(("<|channel|>analysis", "<|message|>"),),
)
