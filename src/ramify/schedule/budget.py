"""How much one step may do, and how much room to keep for what already runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ramify.schedule.request import Request


@dataclass(frozen=True, slots=True)
class StepBudget:
    """Limits of one step: `tokens` positions over at most `rows` requests.

    Rows that generate go first, one token each. Prompt chunks get what they leave, but never less than a quarter, so
    that many long answers cannot starve a new prompt. `whole`: a request is computed in one step, or waits for the
    next, which is how it is where nothing is kept between steps.
    """

    tokens: int
    rows: int
    whole: bool = False

    def prompt_tokens(self, generating: int) -> int:
        """Prompt tokens that fit beside `generating` rows."""
        return max(self.tokens - generating, self.tokens // 4, 1)


CLIP = 4096  # a request that may write 100,000 tokens seldom does: count at most this many of them


class Reserve:
    """How much of what running requests may still write is kept free when a new one is admitted.

    Everything would be safe and slow; nothing leads to preemptions. The share starts at `conservativeness` x 0.5, falls
    while all goes well and jumps when a request had to be preempted. (The idea is SGLang's new-token ratio.)
    """

    HIGHEST, LOWEST, FALL, JUMP = 1.0, 0.08, 0.995, 0.25

    def __init__(self, conservativeness: float = 1.0) -> None:
        self.lowest = self.LOWEST * conservativeness
        self.share = min(0.5 * conservativeness, self.HIGHEST)

    def tokens(self, requests: Iterable[Request]) -> int:
        """Tokens to keep free for these."""
        return int(self.share * sum(min(r.max_new - len(r.tokens) + r.prompt_len, CLIP) for r in requests))

    def went_well(self) -> None:
        self.share = max(self.share * self.FALL, self.lowest)

    def fell_short(self) -> None:
        self.share = min(self.share + self.JUMP, self.HIGHEST)
