"""Measure an exported model: perplexity, function calls, JSON, whether replies end, and samples.

Usage: python scripts/concierge/evaluate.py [--model FOLDER] [--work FOLDER] [--dialogues N]

Everything is measured on documents that were held out of training, through transformers, on the shipped files. Writes
evaluation.json and evaluation.md into the work folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsontasks
import tooltasks
import torch
import torch.nn.functional as F
from batches import Documents
from chat import Message, Tool, assistant, call, function, system, tool_result, user
from corpus import DEFAULT_OUT, DEFAULT_WORK
from transformers import AutoModelForCausalLM, AutoTokenizer

CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
WEATHER = function(
    "get_current_weather",
    "Get the current weather in a given location",
    {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    ["location"],
)
FIND = function("FindRestaurants", "Find a restaurant of a particular cuisine in a city",
                {"cuisine": {"type": "string"}, "city": {"type": "string"}}, ["cuisine", "city"])  # fmt: skip
UNSEEN = function(
    "paint_wall",
    "Paint a wall in some color",
    {"wall": {"type": "string"}, "color": {"type": "string"}},
    ["wall", "color"],
)
LAMP = {"temperature": 12, "condition": "rainy"}


@dataclass
class Prompt:
    """A chat to be continued."""

    messages: list[Message]
    tools: list[Tool] | None = None
    expected: Message | None = None


@dataclass
class Reply:
    """What the model said, and whether it stopped by itself."""

    text: str
    ended: bool


class Subject:
    """The model under test."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.stops = {self.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}

    @torch.no_grad()
    def losses(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of every token of one document."""
        return F.cross_entropy(self.model(tokens[None]).logits[0], targets, reduction="none")

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a rendered prompt."""
        text = self.tokenizer.apply_chat_template(
            prompt.messages, tools=prompt.tools or None, add_generation_prompt=True, tokenize=False
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def answer(self, prompts: list[Prompt], most: int = 200, temperature: float = 0.0) -> list[Reply]:
        """Continue several chats at once; temperature 0 is greedy."""
        ids = [self.encode(prompt) for prompt in prompts]
        width = max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        batch = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature
            else {"do_sample": False}
        )
        out = self.model.generate(batch, attention_mask=mask, max_new_tokens=most, pad_token_id=pad, **sampling)
        return [self._reply(row[width:].tolist()) for row in out]

    def _reply(self, ids: list[int]) -> Reply:
        """Cut a continuation at its first stop token."""
        for index, token in enumerate(ids):
            if token in self.stops:
                return Reply(self.tokenizer.decode(ids[:index]), True)
        return Reply(self.tokenizer.decode(ids), False)


def perplexity(subject: Subject, data: Documents, classes: set[int] | None = None) -> dict[str, float]:
    """Return perplexity and bits per byte over some classes of tokens (all when not given)."""
    nats, tokens, size = 0.0, 0, 0
    for index in range(len(data)):
        batch = data.pack([index])
        wanted = torch.tensor([classes is None or int(label) in classes for label in batch.labels])
        nats += subject.losses(batch.tokens, batch.targets)[wanted].sum().item()
        tokens += int(wanted.sum())
        size += len(subject.tokenizer.decode(batch.targets[wanted], skip_special_tokens=False).encode("utf-8"))
    return {"perplexity": math.exp(nats / tokens), "bits_per_byte": nats / math.log(2) / size, "tokens": tokens}


def held_out_prompts(work: Path, limit: int) -> Iterator[Prompt]:
    """Yield every turn at which the assistant answers a user in the held-out dialogues that list tools."""
    lines = (work / "held_out_chats.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    for record in map(json.loads, lines):
        messages = record["messages"]
        for index, message in enumerate(messages):
            if record["tools"] and message["role"] == "assistant" and messages[index - 1]["role"] == "user":
                yield Prompt(messages[:index], record["tools"], message)


def everyday_prompts(count: int) -> Iterator[Prompt]:
    """Yield newly written chats about everyday functions, up to their first call."""
    rng = random.Random(987_654_321)
    while count:
        messages, tools = tooltasks.make(rng)
        first = next((i for i, m in enumerate(messages) if m.get("tool_calls")), None)
        if first is not None:
            count -= 1
            yield Prompt(messages[:first], tools, messages[first])


def json_prompts(count: int) -> Iterator[Prompt]:
    """Yield newly written requests for JSON."""
    rng = random.Random(123_456_789)
    for _ in range(count):
        messages = jsontasks.make(rng)
        yield Prompt(messages[:-1], None, messages[-1])


def batched(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Group prompts of similar length, so that little of a batch is padding."""
    ordered = sorted(prompts, key=lambda p: sum(len(str(m)) for m in p.messages))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def parse_call(text: str) -> dict[str, Any] | None:
    """Return the first function call of a reply; None when there is none or it is not proper JSON."""
    found = CALL.search(text)
    try:
        value = json.loads(found.group(1)) if found else None
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and "name" in value and "arguments" in value else None


def judge_calls(subject: Subject, prompts: Iterable[Prompt], size: int = 16) -> dict[str, float]:
    """Compare greedy replies with the expected turns: calls where calls belong, none elsewhere."""
    counts: Counter[str] = Counter()
    for group in batched(prompts, size):
        for prompt, reply in zip(group, subject.answer(group), strict=True):
            counts["turns"] += 1
            counts["ended"] += reply.ended
            counts["opened"] += "<tool_call>" in reply.text
            made = parse_call(reply.text)
            counts["valid"] += made is not None
            wanted = (prompt.expected or {}).get("tool_calls")
            if not wanted:
                counts["quiet_turns"] += 1
                counts["quiet"] += "<tool_call>" not in reply.text
                continue
            gold = wanted[0]["function"]
            counts["call_turns"] += 1
            counts["called"] += made is not None
            counts["function"] += made is not None and made["name"] == gold["name"]
            counts["exact"] += (
                made is not None and made["name"] == gold["name"] and made["arguments"] == gold["arguments"]
            )
    return {
        "turns": counts["turns"],
        "ended_by_itself": counts["ended"] / max(1, counts["turns"]),
        "calls_with_valid_json": counts["valid"] / max(1, counts["opened"]),
        "turns_that_call_for_a_call": counts["call_turns"],
        "called_when_expected": counts["called"] / max(1, counts["call_turns"]),
        "right_function": counts["function"] / max(1, counts["call_turns"]),
        "right_function_and_arguments": counts["exact"] / max(1, counts["call_turns"]),
        "no_call_when_none_expected": counts["quiet"] / max(1, counts["quiet_turns"]),
    }


def judge_json(subject: Subject, prompts: Iterable[Prompt]) -> dict[str, float]:
    """Return how many greedy answers to requests for JSON parse, and how many have the expected keys."""
    counts: Counter[str] = Counter()
    for group in batched(prompts, 16):
        for prompt, reply in zip(group, subject.answer(group), strict=True):
            counts["all"] += 1
            try:
                value = json.loads(reply.text)
            except json.JSONDecodeError:
                continue
            counts["valid"] += 1
            counts["same"] += _keys(value) == _keys(json.loads((prompt.expected or {})["content"]))
    return {
        "requests": counts["all"],
        "valid_json": counts["valid"] / counts["all"],
        "expected_keys": counts["same"] / counts["all"],
    }


def _keys(value: Any) -> Any:
    """Return the keys of an object, or the type of anything else."""
    return list(value) if isinstance(value, dict) else type(value).__name__


def sample_prompts() -> list[tuple[str, Prompt]]:
    """Return the chats shown in the model card."""
    helpful = system("You are a helpful assistant.")
    return [
        ("greeting", Prompt([user("Hello!")])),
        ("itself", Prompt([helpful, user("Who are you and what can you do?")])),
        ("story", Prompt([user("Tell me a story about a cat and a ball.")])),
        ("dialogue without tools", Prompt([user("I'm hungry. Can you find me a restaurant in San Jose?")])),
        ("dialogue with a tool", Prompt([user("I'm hungry. I want some Italian food in Oakland.")], [FIND])),
        ("weather call", Prompt([helpful, user("What is the weather like in Boston today?")], [WEATHER])),
        ("weather reply", Prompt([user("What is the weather like in Boston today?"),
                                  call("get_current_weather", {"location": "Boston"}), tool_result(LAMP)], [WEATHER])),
        ("a tool not seen in training", Prompt([user("Paint the north wall green, please.")], [UNSEEN, WEATHER])),
        ("no call needed", Prompt([user("Thank you, that was nice.")], [WEATHER])),
        ("JSON", Prompt([user("Give me a JSON object for a person with name, age and city.")])),
        ("follow-up", Prompt([user("My name is Nora."), assistant(
            "Nice to meet you, Nora!"), user("What is my name?")])),
        ("a fact", Prompt([user("What is the capital of France?")])),
        ("beyond it: arithmetic", Prompt([user("If I have three apples and eat one, how many are left?")])),
        ("beyond it: knowledge", Prompt([user("Who was Napoleon?")])),
        ("beyond it: code", Prompt([user("Write a Python function that adds two numbers.")])),
    ]  # fmt: skip


def samples(subject: Subject) -> list[dict[str, Any]]:
    """Return each sample chat with a greedy and a sampled reply."""
    torch.manual_seed(0)
    found = []
    for title, prompt in sample_prompts():
        greedy = subject.answer([prompt], 400)[0]
        warm = subject.answer([prompt], 400, temperature=0.8)[0]
        found.append({"title": title, "said": prompt.messages[-1][
            "content"], "greedy": greedy.text, "sampled": warm.text,
                      "ended": greedy.ended and warm.ended})  # fmt: skip
    return found


def measure(subject: Subject, work: Path, dialogues: int) -> dict[str, Any]:
    """Take all measurements."""
    chats, stories = Documents(work / "held_out_dialogues"), Documents(work / "held_out_stories")
    results: dict[str, Any] = {
        "dialogues_all_tokens": perplexity(subject, chats),
        "dialogues_assistant_tokens": perplexity(subject, chats, {3}),
        "stories": perplexity(subject, stories),
    }
    print(json.dumps(results), flush=True)
    results["calls_in_dialogues"] = judge_calls(subject, held_out_prompts(work, dialogues))
    print(json.dumps(results["calls_in_dialogues"]), flush=True)
    results["calls_of_everyday_functions"] = judge_calls(subject, everyday_prompts(300))
    results["json"] = judge_json(subject, json_prompts(300))
    print(json.dumps([results["calls_of_everyday_functions"], results["json"]]), flush=True)
    results["samples"] = samples(subject)
    return results


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def markdown(results: dict[str, Any]) -> str:
    """Return the measurements as Markdown for the model card."""
    lines = ["| held-out text | perplexity per token | bits per byte | tokens |", "|---|---|---|---|"]
    for key in ("dialogues_all_tokens", "dialogues_assistant_tokens", "stories"):
        row = results[key]
        lines.append(
            f"| {key.replace('_', ' ')} | {row['perplexity']:.2f} | {row['bits_per_byte']:.3f} | {row['tokens']:,} |"
        )
    lines += ["", "| greedy replies | held-out dialogues | everyday functions (newly written) |", "|---|---|---|"]
    first, second = results["calls_in_dialogues"], results["calls_of_everyday_functions"]
    for key in first:
        cells = [f"{part[key]:,}" if isinstance(part[key], int) else _percent(part[key]) for part in (first, second)]
        lines.append(f"| {key.replace('_', ' ')} | {cells[0]} | {cells[1]} |")
    wanted = results["json"]
    lines += ["", f"Requests for JSON ({wanted['requests']} newly written): {_percent(wanted['valid_json'])} of the "
                  f"greedy answers parse, "
              f"{_percent(wanted['expected_keys'])} have exactly the keys asked for.", "", "### Samples", "",
              "Greedy first, then one sample at temperature 0.8. Nothing was picked."]  # fmt: skip
    for sample in results["samples"]:
        lines += [
            "",
            f"**{sample['title']}**: {sample['said']}",
            "",
            "```text",
            sample["greedy"],
            "```",
            "",
            "```text",
            sample["sampled"],
            "```",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEFAULT_OUT, help="exported model folder")
    parser.add_argument(
        "--work", type=Path, default=DEFAULT_WORK, help="folder with the held-out data; results go there"
    )
    parser.add_argument("--dialogues", type=int, default=120, help="held-out dialogues in which calls are judged")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = measure(Subject(options.model), options.work, options.dialogues)
    results["weights_sha256"] = hashlib.sha256((options.model / "model.safetensors").read_bytes()).hexdigest()
    (options.work / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (options.work / "evaluation.md").write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()
