"""From what a step left on the device to what the host is told of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ramify.ops.staging import Fetched, Staging
from ramify.sampling.logprobs import join, told
from ramify.wire.plan import LogprobsWanted, Plan, Row
from ramify.wire.result import HiddenStates, RowLogprobs, StepResult, TokenLogprobs
from ramify.worker.slots import Held

NOT_FINITE = "the model produced NaN or infinite numbers for this request"


@dataclass(frozen=True)
class Scored:
    """Parts of a prompt, from index `start` on, as `sampling.logprobs.score` gives them."""

    start: int
    wanted: LogprobsWanted
    parts: list[list[Tensor]]


@dataclass
class Left:
    """What a step left on the device. By the number of a row: `scored` prompts, `hidden` states that somebody wants,
    `pooled` ones; `outputs`, of rows that sample, what is wanted of log probabilities. `tokens_S` and `broken_S` are of
    the positions that were sampled, row by row, `finite_Q` of rows that sampled nothing, the `quiet`. `ends_N` is where
    rows ended, drafts included, `held` whom they are of.
    """

    held: list[Held] = field(default_factory=list)
    ends_N: Tensor | None = None
    tokens_S: Tensor | None = None
    broken_S: Tensor | None = None
    quiet: list[int] = field(default_factory=list)
    finite_Q: Tensor | None = None
    scored: dict[int, Scored] = field(default_factory=dict)
    outputs: dict[int, tuple[LogprobsWanted, list[Tensor]]] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)
    pooled: dict[int, Tensor] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        """In the order in which `Outcome` takes them."""
        for each in (self.ends_N, self.tokens_S, self.broken_S, self.finite_Q):
            if each is not None:
                yield each
        for scored in self.scored.values():
            for part in scored.parts:
                yield from part
        for _, tensors in self.outputs.values():
            yield from tensors
        yield from self.hidden.values()
        yield from self.pooled.values()


@dataclass(frozen=True)
class News:
    """What only the device knew: who may have NaN in the pages of its slot, and from which position on; and how many
    tokens were guessed in vain.
    """

    faults: list[tuple[int, Held, int]]
    refused: list[tuple[Held, int]]

    def __bool__(self) -> bool:
        return bool(self.faults or self.refused)


class Outcome:
    """Of a step that the device was asked to compute."""

    def __init__(self, plan: Plan, left: Left, staging: Staging) -> None:
        self._plan, self._left = plan, left
        self._fetched: Fetched = staging.fetch(list(left.tensors()))

    def wait(self) -> tuple[StepResult, News]:
        """Once it is computed. It is pure: from any thread."""
        return _Reading(self._plan, self._left, self._fetched.wait()).read()


class _Reading:
    """`tensors`, on the host, are those of `left`."""

    def __init__(self, plan: Plan, left: Left, tensors: Sequence[Tensor]) -> None:
        self._plan, self._left, self._tensors = plan, left, iter(tensors)
        self._tokens: list[list[int]] = [[] for _ in plan.rows]
        self._faults: dict[int, str] = {}
        self._news = News([], [])

    def read(self) -> tuple[StepResult, News]:
        plan, left = self._plan, self._left
        self._ends = self._next(left.ends_N)
        self._read_sampled()
        self._read_quiet()
        logprobs = {index: RowLogprobs(prompt=self._prompt(each)) for index, each in left.scored.items()}
        for index, (wanted, tensors) in left.outputs.items():
            prompt = logprobs[index].prompt if index in logprobs else None
            logprobs[index] = RowLogprobs(prompt, self._output(index, wanted, len(tensors)))
        hidden = {index: self._hidden(index) for index in left.hidden}
        pooled = {index: self._pooled(index) for index in left.pooled}
        tickets = [copy.ticket for copy in plan.copies]
        result = StepResult(plan.step, self._tokens, logprobs, tickets, self._faults, hidden, pooled)
        return result, self._news

    def _next(self, there: Tensor | None) -> list[int]:
        found: list[int] = [] if there is None else next(self._tensors).tolist()
        return found

    def _read_sampled(self) -> None:
        """A token counts as long as every draft before it was what was drawn there: sampling is not changed by
        guessing.
        """
        drawn, broken = iter(self._next(self._left.tokens_S)), iter(self._next(self._left.broken_S))
        for index, row in enumerate(self._plan.rows):
            if not row.sample:
                continue
            tokens, wrong = ([next(each) for _ in range(len(row.drafts) + 1)] for each in (drawn, broken))
            if any(wrong):
                self._spoil(index, row)
            right = next((k for k, draft in enumerate(row.drafts) if draft != tokens[k]), len(row.drafts))
            self._tokens[index] = tokens[: right + 1]
            if right < len(row.drafts):
                self._news.refused.append((self._left.held[index], len(row.drafts) - right))

    def _read_quiet(self) -> None:
        """Pieces of prompts. A piece that is right is published at once, so each has to be looked at."""
        finite = self._next(self._left.finite_Q)
        for index in (index for index, right in zip(self._left.quiet, finite, strict=True) if not right):
            self._spoil(index, self._plan.rows[index])

    def _spoil(self, index: int, row: Row) -> None:
        self._faults[index] = NOT_FINITE
        self._news.faults.append((row.slot, self._left.held[index], self._ends[index] - row.count))

    def _prompt(self, scored: Scored) -> TokenLogprobs:
        found, start = [], scored.start
        for part in scored.parts:
            tensors = [next(self._tensors) for _ in part]
            found.append(told(tensors, scored.wanted, start))
            start += len(tensors[0])
        return join(found)

    def _output(self, index: int, wanted: LogprobsWanted, count: int) -> TokenLogprobs:
        row, tensors = self._plan.rows[index], [next(self._tensors) for _ in range(count)]
        return told(tensors, wanted, self._ends[index] - len(row.drafts), len(self._tokens[index]))

    def _hidden(self, index: int) -> HiddenStates:
        states_PD = next(self._tensors)
        return HiddenStates(self._ends[index] - len(states_PD), len(states_PD), as_bytes(states_PD))

    def _pooled(self, index: int) -> bytes:
        pooled = next(self._tensors)
        if not bool(pooled.isfinite().all()):
            self._faults[index] = NOT_FINITE
        return as_bytes(pooled)


def as_bytes(x: Tensor) -> bytes:
    """float32, little-endian, row by row; of a tensor on the host."""
    return x.to(torch.float32).numpy().astype("<f4").tobytes()
