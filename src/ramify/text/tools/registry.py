"""All tool-call formats by name, SGLang's names among them. Another package adds its own as `tools.NAME`."""

from __future__ import annotations

from ramify.core.registry import Registry
from ramify.text.tools.format import ToolFormat

JSON = "ramify.text.tools.json_formats"
MARKED = "ramify.text.tools.marked_formats"
PYTHON = "ramify.text.tools.python_formats"

TOOL_FORMATS: Registry[ToolFormat] = Registry(
    "tools",
    {
        "apertus2509": f"{JSON}:APERTUS",
        "apriel": f"{JSON}:APRIEL",
        "cohere_command4": f"{JSON}:COHERE",
        "command-r": f"{JSON}:COMMAND_R",
        "deepseekv3": f"{JSON}:DEEPSEEK_V3",
        "deepseekv31": f"{JSON}:DEEPSEEK_V31",
        "deepseekv32": f"{MARKED}:DEEPSEEK_V32",
        "deepseekv4": f"{MARKED}:DEEPSEEK_V4",
        "functiongemma": f"{PYTHON}:FUNCTION_GEMMA",
        "functionary": f"{JSON}:FUNCTIONARY",
        "gemma3": f"{PYTHON}:GEMMA3",
        "gemma4": f"{PYTHON}:GEMMA4",
        "gigachat3": f"{JSON}:GIGACHAT3",
        "glm": f"{MARKED}:GLM45",
        "glm45": f"{MARKED}:GLM45",
        "glm47": f"{MARKED}:GLM45",
        "gpt-oss": f"{JSON}:GPT_OSS",
        "granite": f"{JSON}:GRANITE",
        "granite-20b-fc": f"{JSON}:GRANITE_20B",
        "hermes": f"{JSON}:HERMES",
        "hunyuan": f"{JSON}:APRIEL",
        "interns1": f"{JSON}:INTERN",
        "json": f"{JSON}:PLAIN_JSON",
        "kimi_k2": f"{JSON}:KIMI_K2",
        "lfm2": f"{PYTHON}:LFM2",
        "llama3": f"{JSON}:LLAMA3",
        "mimo": f"{MARKED}:QWEN3_CODER",
        "minimax-m2": f"{MARKED}:MINIMAX_M2",
        "mirothinker": f"{JSON}:MIRO",
        "mistral": f"{JSON}:MISTRAL",
        "mistral11": f"{JSON}:MISTRAL_11",
        "phi4": f"{JSON}:PHI4",
        "pythonic": f"{PYTHON}:PYTHONIC",
        "qwen": f"{JSON}:HERMES",
        "qwen25": f"{JSON}:HERMES",
        "qwen3_coder": f"{MARKED}:QWEN3_CODER",
        "seed_oss": f"{MARKED}:SEED_OSS",
        "step3": f"{MARKED}:STEP3",
        "step3p5": f"{MARKED}:QWEN3_CODER",
    },
)
