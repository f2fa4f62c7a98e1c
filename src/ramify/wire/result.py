"""What a step gave: the workers' answer to a plan."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class TokenLogprobs(msgspec.Struct, array_like=True):
    """Log probabilities of a run of tokens; `start` is the index of the first in the request.

    `values[i]` belongs to token `start + i`. `top_values[i]`, `top_ids[i]` list the best tokens there, best first;
    `id_values[i]` follow the order of the request's own `ids`. Lists that were not asked for are empty.
    """

    start: int
    values: list[float]
    top_values: list[list[float]] = []
    top_ids: list[list[int]] = []
    id_values: list[list[float]] = []


class RowLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Of one row: scored prompt tokens, and sampled ones."""

    prompt: TokenLogprobs | None = None
    output: TokenLogprobs | None = None


class HiddenStates(msgspec.Struct, frozen=True, array_like=True):
    """Of `count` positions from `start` on, what the model's last norm gave: float32, little-endian, row by row."""

    start: int
    count: int
    data: bytes


def join(parts: Sequence[HiddenStates]) -> HiddenStates:
    """Of runs that follow one another, one."""
    if len(parts) == 1:
        return parts[0]
    return HiddenStates(parts[0].start, sum(part.count for part in parts), b"".join(part.data for part in parts))


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """Answers plan `step`. Lists and keys follow the order of its rows.

    `tokens[i]` are the tokens row i yielded: none, one, or the accepted drafts and one more. `faults` names rows that
    went wrong on their own (NaN logits): such a row ends, the others do not notice. `hidden` are states that were asked
    for, by row; of a row with drafts those of the rejected ones too. `pooled` is what the head gave, by row, for those
    that reached the end of a text.
    """

    step: int
    tokens: list[list[int]]
    logprobs: dict[int, RowLogprobs]
    done_copies: list[int]
    faults: dict[int, str]
    hidden: dict[int, HiddenStates] = {}
    pooled: dict[int, bytes] = {}
