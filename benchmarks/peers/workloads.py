"""What is asked of every peer, and what is read off the answers.

Prompts are random token ids, new ones in every round, so that nothing is cached but what a workload shares by intent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

Answer = dict[str, list]
Ask = Callable[[list[list[int]], int], Answer]
VOCABULARY = 150_000


@dataclass(frozen=True)
class Workload:
    """`users` at once: a prompt of `shared` + `own` tokens and `new` output tokens each, in each of `turns`.

    From the second turn on a prompt is everything before it and `own` tokens more.
    """

    name: str
    users: int
    own: int
    new: int
    shared: int = 0
    turns: int = 1
    metric: str = "decode_tok_s"

    @property
    def context(self) -> int:
        """Tokens that a user needs room for, in whole pages of 256."""
        return -(-(self.shared + self.turns * (self.own + self.new) + 1) // 256) * 256


FULL = (
    Workload("prefill-512", 1, 512, 1, metric="prefill_tok_s"),
    Workload("prefill-2048", 1, 2048, 1, metric="prefill_tok_s"),
    Workload("decode-1", 1, 128, 128),
    Workload("decode-8", 8, 128, 128),
    Workload("decode-32", 32, 128, 128),
    Workload("shared-16", 16, 32, 32, shared=1024, metric="output_tok_s"),
    Workload("chat-8x6", 8, 64, 32, turns=6, metric="output_tok_s"),
)
SHORTER = {
    "decode-1": {"new": 48},
    "decode-8": {"own": 64, "new": 24},
    "decode-32": {"own": 32, "new": 20},
    "shared-16": {"own": 16, "new": 16},
    "chat-8x6": {"own": 16, "new": 8},
}
QUICK = {
    "prefill-512": {"own": 64},
    "prefill-2048": {"own": 128},
    "decode-1": {"own": 16, "new": 6},
    "decode-8": {"own": 16, "new": 4},
    "decode-32": {"own": 8, "new": 3},
    "shared-16": {"own": 8, "new": 3, "shared": 64},
    "chat-8x6": {"own": 8, "new": 3, "turns": 3},
}
SIZES = {"full": {}, "default": SHORTER, "quick": QUICK}


def workloads(size: str) -> list[Workload]:
    return [replace(workload, **SIZES[size].get(workload.name, {})) for workload in FULL]


def tokens(seed: str, count: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(VOCABULARY) for _ in range(count)]


def play(workload: Workload, round: int, ask: Ask) -> list[Answer]:
    """Ask what the workload asks, turn by turn; every peer of a round gets the same prompts.

    Raises ValueError if an answer has not the tokens that were asked for.
    """
    seed = f"{workload.name} {round}"
    prompts = [tokens(seed, workload.shared) for _ in range(workload.users)]
    answers: list[Answer] = []
    for turn in range(workload.turns):
        own = [tokens(f"{seed} {turn} {user}", workload.own) for user in range(workload.users)]
        prompts = [before + mine for before, mine in zip(prompts, own, strict=True)]
        answers.append(checked(ask(prompts, workload.new), workload))
        prompts = [before + said for before, said in zip(prompts, answers[-1]["ids"], strict=True)]
    return answers


def checked(answer: Answer, workload: Workload) -> Answer:
    for kind in ("times", "ids"):
        counts = [len(one) for one in answer[kind]]
        if counts != [workload.new] * workload.users:
            raise ValueError(f"{workload.name}: {counts} {kind}, expected {workload.users} times {workload.new}")
    return answer


def measures(workload: Workload, answers: list[Answer]) -> dict[str, float]:
    """Rates in tokens per second and times in seconds. Turns add up: a turn begins when the last one has ended."""
    firsts = [times[0] for answer in answers for times in answer["times"]]
    total = sum(max(times[-1] for times in answer["times"]) for answer in answers)
    found = {
        "seconds": total,
        "ttft_mean": sum(firsts) / len(firsts),
        "ttft_max": max(firsts),
        "prefill_tok_s": workload.users * (workload.shared + workload.own) / max(firsts),
        "output_tok_s": workload.users * workload.new * workload.turns / total,
    }
    if workload.new > 1:
        found["decode_tok_s"] = decode_rate(answers[-1])
    if answers[-1]["cached"]:
        found["cached_tokens"] = sum(sum(answer["cached"]) for answer in answers)
    return found


def decode_rate(answer: Answer) -> float:
    """Tokens that came when every request had its first, over the time they took."""
    begin = max(times[0] for times in answer["times"])
    later = [at for times in answer["times"] for at in times if at > begin]
    return len(later) / (max(later) - begin)
