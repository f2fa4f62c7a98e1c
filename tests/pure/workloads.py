"""Workload shapes of the RadixAttention paper (systems of few-shot, agents, trees, judges, chats) in token ids.

Offline shapes are lists of prompts. A chat is a list of users, each a list of turns: (new input tokens, output tokens).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Prompt = list[int]
VOCAB = 30_000


class Writer:
    """Draws text nobody else has drawn (up to chance)."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)

    def text(self, low: int, high: int | None = None) -> Prompt:
        return [self.rnd.randrange(VOCAB) for _ in range(self.rnd.randint(low, high or low))]

    def shuffled(self, prompts: list[Prompt]) -> list[Prompt]:
        self.rnd.shuffle(prompts)
        return prompts


def mmlu(w: Writer) -> list[Prompt]:
    """Five-shot multiple choice: a prefix per subject."""
    subjects = [w.text(300, 500) for _ in range(8)]
    return [subject + w.text(40, 120) for subject in subjects for _ in range(12)]


def hellaswag(w: Writer) -> list[Prompt]:
    """Twenty-shot, four endings per question: the questions share the shots, the endings the question."""
    shots = w.text(1200)
    questions = [shots + w.text(40, 80) for _ in range(20)]
    return [question + w.text(10, 30) for question in questions for _ in range(4)]


def generative_agents(w: Writer) -> list[Prompt]:
    """A few templates with arguments in the middle and at the end."""
    templates = [w.text(150, 300) for _ in range(4)]
    return [template + w.text(10, 40) + template[:50] for template in templates for _ in range(20)]


def tree_of_thought(w: Writer) -> list[Prompt]:
    """A tree whose branches fork three times; every node asks."""
    prompts, level = [], [w.text(200) for _ in range(5)]
    for _ in range(3):
        level = [node + w.text(30, 80) for node in level for _ in range(3)]
        prompts += level
    return prompts


def skeleton_of_thought(w: Writer) -> list[Prompt]:
    """A skeleton, then each point expanded on the same prefix."""
    prompts = []
    for _ in range(10):
        skeleton = w.text(150, 250)
        prompts += [skeleton, *(skeleton + w.text(15, 30) for _ in range(6))]
    return prompts


def judge(w: Writer) -> list[Prompt]:
    """One essay, several dimensions to judge, then a summary of all."""
    prompts = []
    for _ in range(15):
        essay = w.text(250, 400)
        prompts += [essay + w.text(60, 100) for _ in range(4)]
    return prompts


def json_decoding(w: Writer) -> list[Prompt]:
    """One template, many documents."""
    template = w.text(250)
    return [template + w.text(30, 300) for _ in range(60)]


def rag(w: Writer) -> list[Prompt]:
    """Retrieved passages, some popular, behind one instruction."""
    instruction, passages = w.text(100), [w.text(150, 250) for _ in range(10)]
    return [instruction + w.rnd.choice(passages) + w.rnd.choice(passages) + w.text(20, 40) for _ in range(80)]


def unique(w: Writer) -> list[Prompt]:
    """Nothing shared."""
    return [w.text(50, 300) for _ in range(50)]


OFFLINE: dict[str, Callable[[Writer], list[Prompt]]] = {
    f.__name__: f
    for f in (
        mmlu,
        hellaswag,
        generative_agents,
        tree_of_thought,
        skeleton_of_thought,
        judge,
        json_decoding,
        rag,
        unique,
    )
}


def distinct_tokens(prompts: list[Prompt]) -> int:
    """Tokens of the trie of all prompts: what any schedule has to compute at least.

    The last token of a prompt is always computed, so a prompt that another begins with, or equals, costs one more.
    """
    total, previous = 0, None
    for prompt in sorted(prompts):
        shared = _common(previous, prompt) if previous is not None else 0
        total += len(prompt) - min(shared, len(prompt) - 1)
        previous = prompt
    return total


def _common(a: Prompt, b: Prompt) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def chats(w: Writer, users: int, turns: int, given: tuple[int, int], answer: int) -> list[list[tuple[Prompt, int]]]:
    return [[(w.text(*given), answer) for _ in range(turns)] for _ in range(users)]


def agents(w: Writer, count: int, steps: int) -> list[list[tuple[Prompt, int]]]:
    """ReAct: one long few-shot prompt for all, then thought, action and observation appended again and again."""
    shots = w.text(800)
    return [[(shots + w.text(20, 40), 30), *((w.text(40, 120), 30) for _ in range(steps - 1))] for _ in range(count)]


def shapes(seed: int) -> Iterator[tuple[str, list[Prompt]]]:
    for name, make in OFFLINE.items():
        writer = Writer(seed)
        yield name, writer.shuffled(make(writer))
