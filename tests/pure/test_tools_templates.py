"""Formats are told by the chat template, and what a template renders is what its format reads."""

from __future__ import annotations

import random

import pytest
from answers import (
    CONTENT,
    RENDERED,
    THOUGHT,
    Rendered,
    atoms,
    calls_of,
    content_of,
    feed,
    parser,
    real_templates,
    reasoning_of,
)

from assets import BUNDLED, SHARED, needs_shared, shared
from ramify.text.reasoning.detect import detect_reasoning
from ramify.text.tools.detect import detect_tools
from ramify.text.tools.events import CallStart, Event
from ramify.text.tools.signatures import Signatures

TEMPLATES = {  # every template that is for tools or reasoning: its tool-call and its reasoning format
    "chat_templates/chat_templates/granite-3.0-instruct.jinja": ("granite", None),
    "chat_templates/chat_templates/qwen2.5-instruct.jinja": ("hermes", None),
    "llama.cpp/Apertus-8B-Instruct.jinja": ("apertus2509", "apertus2509"),
    "llama.cpp/Apriel-1.6-15b-Thinker-fixed.jinja": ("apriel", "apriel"),
    "llama.cpp/Bielik-11B-v3.0-Instruct.jinja": ("hermes", "qwen3"),
    "llama.cpp/ByteDance-Seed-OSS.jinja": ("seed_oss", "seed_oss"),
    "llama.cpp/Cohere2MoE.jinja": ("cohere_command4", "cohere_command4"),
    "llama.cpp/CohereForAI-c4ai-command-r-plus-tool_use.jinja": ("command-r", None),
    "llama.cpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja": ("cohere_command4", "cohere_command4"),
    "llama.cpp/GLM-4.6.jinja": ("glm45", "glm45"),
    "llama.cpp/GLM-4.7-Flash.jinja": ("glm45", "glm45"),
    "llama.cpp/GLM-5.2.jinja": ("glm45", "glm45"),
    "llama.cpp/GigaChat3-10B-A1.8B.jinja": ("gigachat3", None),
    "llama.cpp/GigaChat3.1-10B-A1.8B.jinja": ("gigachat3", None),
    "llama.cpp/HuggingFaceTB-SmolLM3-3B.jinja": (None, "qwen3"),
    "llama.cpp/Kimi-K2-Instruct.jinja": ("kimi_k2", None),
    "llama.cpp/Kimi-K2-Thinking.jinja": ("kimi_k2", "kimi_k2"),
    "llama.cpp/LFM2-8B-A1B.jinja": ("lfm2", None),
    "llama.cpp/LFM2.5-Instruct.jinja": ("lfm2", "qwen3"),
    "llama.cpp/MiMo-VL.jinja": ("hermes", None),
    "llama.cpp/MiroThinker.jinja": ("mirothinker", "qwen3"),
    "llama.cpp/Mistral-Small-3.2-24B-Instruct-2506.jinja": ("mistral11", None),
    "llama.cpp/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja": ("qwen3_coder", "nemotron_3"),
    "llama.cpp/NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja": ("hermes", None),
    "llama.cpp/NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja": ("hermes", None),
    "llama.cpp/Qwen-QwQ-32B.jinja": ("hermes", "qwen3"),
    "llama.cpp/Qwen-Qwen2.5-7B-Instruct.jinja": ("hermes", None),
    "llama.cpp/Qwen-Qwen3-0.6B.jinja": ("hermes", "qwen3"),
    "llama.cpp/Qwen3-Coder.jinja": ("qwen3_coder", None),
    "llama.cpp/Qwen3.5-4B.jinja": ("qwen3_coder", "qwen3"),
    "llama.cpp/Reka-Edge.jinja": ("hermes", "qwen3"),
    "llama.cpp/StepFun3.5-Flash.jinja": ("qwen3_coder", "step3p5"),
    "llama.cpp/deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja": ("deepseekv3", "deepseek-r1"),
    "llama.cpp/deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja": ("deepseekv3", "deepseek-r1"),
    "llama.cpp/deepseek-ai-DeepSeek-V3.1.jinja": ("deepseekv31", "deepseek-v3"),
    "llama.cpp/deepseek-ai-DeepSeek-V3.2.jinja": ("deepseekv32", "deepseek-v3"),
    "llama.cpp/deepseek-ai-DeepSeek-V4.jinja": ("deepseekv4", "deepseek-v3"),
    "llama.cpp/fireworks-ai-llama-3-firefunction-v2.jinja": ("phi4", None),
    "llama.cpp/google-gemma-4-31B-it-interleaved.jinja": ("gemma4", "gemma4"),
    "llama.cpp/google-gemma-4-31B-it.jinja": ("gemma4", "gemma4"),
    "llama.cpp/ibm-granite-granite-3.3-2B-Instruct.jinja": ("granite", "granite"),
    "llama.cpp/llama-cpp-deepseek-r1.jinja": ("deepseekv3", "deepseek-r1"),
    "llama.cpp/llama-cpp-rwkv-world.jinja": (None, "qwen3"),
    "llama.cpp/meetkai-functionary-medium-v3.1.jinja": ("functionary", None),
    "llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja": ("llama3", None),
    "llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja": ("llama3", None),
    "llama.cpp/meta-llama-Llama-3.3-70B-Instruct.jinja": ("llama3", None),
    "llama.cpp/mistralai-Ministral-3-14B-Reasoning-2512.jinja": ("mistral11", "mistral"),
    "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407.jinja": ("mistral", None),
    "llama.cpp/moonshotai-Kimi-K2.jinja": ("kimi_k2", None),
    "llama.cpp/openai-gpt-oss-120b.jinja": ("gpt-oss", "gpt-oss"),
    "llama.cpp/stepfun-ai-Step-3.5-Flash.jinja": ("qwen3_coder", "step3p5"),
    "llama.cpp/unsloth-Apriel-1.5.jinja": ("apriel", "apriel"),
    "llama.cpp/unsloth-mistral-Devstral-Small-2507.jinja": ("mistral11", None),
    "vllm/tool_chat_template_deepseekr1.jinja": ("deepseekv3", "deepseek-r1"),
    "vllm/tool_chat_template_deepseekv3.jinja": ("deepseekv3", None),
    "vllm/tool_chat_template_granite.jinja": ("granite", None),
    "vllm/tool_chat_template_granite_20b_fc.jinja": ("granite-20b-fc", None),
    "vllm/tool_chat_template_hermes.jinja": ("hermes", None),
    "vllm/tool_chat_template_internlm2_tool.jinja": ("interns1", None),
    "vllm/tool_chat_template_llama3.1_json.jinja": ("llama3", None),
    "vllm/tool_chat_template_llama3.2_json.jinja": ("llama3", None),
    "vllm/tool_chat_template_llama3.2_pythonic.jinja": ("pythonic", None),
    "vllm/tool_chat_template_llama4_json.jinja": ("llama3", None),
    "vllm/tool_chat_template_llama4_pythonic.jinja": ("pythonic", None),
    "vllm/tool_chat_template_mistral.jinja": ("mistral", None),
    "vllm/tool_chat_template_mistral3.jinja": ("mistral", None),
    "vllm/tool_chat_template_mistral_parallel.jinja": ("mistral", None),
    "vllm/tool_chat_template_phi4_mini.jinja": ("phi4", None),
    "vllm/tool_chat_template_toolace.jinja": ("pythonic", None),
}


def detected(source: str) -> tuple[str | None, str | None]:
    tools, reasoning = detect_tools(source), detect_reasoning(source)
    return tools and tools.name, reasoning and reasoning.name


@needs_shared
def test_every_real_template_is_told() -> None:
    found = {str(path.relative_to(SHARED / "templates")): detected(path.read_text()) for path in real_templates()}
    assert len(found) > 80
    assert {path: names for path, names in found.items() if names != (None, None)} == TEMPLATES


def test_the_bundled_template() -> None:
    assert detected((BUNDLED / "chat_template.jinja").read_text()) == ("hermes", None)


def test_special_tokens_decide_where_the_template_does_not() -> None:
    vague = "{% if tools %}{{ tools | tojson }}{% endif %}"
    assert detect_tools(vague) is None
    assert detect_tools(vague, ["<s>", "<|tool_call_start|>"]).name == "lfm2"  # type: ignore[union-attr]
    assert detect_tools("{{ messages }}", ["<|tool_call_start|>"]) is None


rendered = pytest.mark.parametrize(
    "case", RENDERED, ids=lambda case: case.path.rpartition("/")[2].removesuffix(".jinja")
)


@rendered
def test_what_a_template_renders(case: Rendered) -> None:
    events = feed(case.parser(), [case.answer])
    assert calls_of(events) == case.calls
    assert content_of(events).strip() == (CONTENT if case.content else "")
    assert reasoning_of(events) == (THOUGHT if case.thinks else "")


@rendered
def test_pieces_make_no_difference(case: Rendered) -> None:
    answer = case.answer
    whole = atoms(feed(case.parser(), [answer]))
    rnd = random.Random(case.path)
    assert atoms(feed(case.parser(), list(answer))) == whole
    for _ in range(8):
        assert atoms(feed(case.parser(), pieces(answer, rnd))) == whole


def pieces(text: str, rnd: random.Random) -> list[str]:
    found = []
    while text:
        size = rnd.choice((1, 2, 3, 5, 8, 30))
        found.append(text[:size])
        text = text[size:]
    return found


@rendered
def test_no_beginning_says_what_the_whole_does_not(case: Rendered) -> None:
    answer = case.answer
    events = feed(case.parser(), [answer])
    whole, begun = atoms(events), calls_begun(events)
    streaming, said = case.parser(), 0
    for place, character in enumerate(answer, 1):
        new = atoms(streaming.feed(character))
        assert new == whole[said : said + len(new)]
        said += len(new)
        if place % 20 == 0:  # if it is cut here, what was called is called in the whole
            found = calls_begun(feed(case.parser(), [answer[:place]]))
            assert found == begun[: len(found)]
    assert atoms(streaming.finish()) == whole[said:]


def calls_begun(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.id, event.name) for event in events if isinstance(event, CallStart)]


def test_harmony_as_its_own_library_writes_it() -> None:
    text = shared("templates/harmony/test_does_not_drop_if_ongoing_analysis.txt").read_text()
    answer = text.partition("<|end|><|start|>assistant")[2].partition("<|start|>functions")[0]
    events = feed(parser("gpt-oss", "gpt-oss", signatures=Signatures([{"name": "lookup_weather"}])), [answer])
    assert calls_of(events) == [("lookup_weather", {"location": "San Francisco"})]
    assert "We need to use lookup_weather tool." in reasoning_of(events)
    assert content_of(events) == ""
