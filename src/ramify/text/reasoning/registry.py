"""All reasoning formats by name, SGLang's names among them. Another package adds its own as `reasoning.NAME`."""

from __future__ import annotations

from ramify.core.registry import Registry
from ramify.text.reasoning.format import ReasoningFormat

TABLE = "ramify.text.reasoning.formats"

REASONING_FORMATS: Registry[ReasoningFormat] = Registry(
    "reasoning",
    {
        "apertus2509": f"{TABLE}:APERTUS",
        "apriel": f"{TABLE}:APRIEL",
        "cohere_command4": f"{TABLE}:COHERE",
        "deepseek-r1": f"{TABLE}:DEEPSEEK_R1",
        "deepseek-v3": f"{TABLE}:DEEPSEEK_V3",
        "deepseek-v4": f"{TABLE}:DEEPSEEK_V3",
        "gemma4": f"{TABLE}:GEMMA4",
        "glm45": f"{TABLE}:GLM45",
        "gpt-oss": f"{TABLE}:GPT_OSS",
        "granite": f"{TABLE}:GRANITE",
        "granite_thinking_parser": f"{TABLE}:GRANITE",
        "hunyuan": f"{TABLE}:HUNYUAN",
        "interns1": f"{TABLE}:QWEN3",
        "kimi": f"{TABLE}:KIMI",
        "kimi_k2": f"{TABLE}:KIMI_K2",
        "mimo": f"{TABLE}:QWEN3",
        "minimax": f"{TABLE}:MINIMAX",
        "mistral": f"{TABLE}:MISTRAL",
        "nemotron_3": f"{TABLE}:NEMOTRON_3",
        "qwen3": f"{TABLE}:QWEN3",
        "qwen3-thinking": f"{TABLE}:QWEN3_THINKING",
        "seed_oss": f"{TABLE}:SEED_OSS",
        "step3": f"{TABLE}:STEP3",
        "step3p5": f"{TABLE}:STEP3P5",
    },
)
