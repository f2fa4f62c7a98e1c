"""What sampling needs to know of the request in each slot, as tensors to gather from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramify.core.params import GREEDY_BELOW, SamplingParams
from ramify.ops.staging import Staging
from ramify.wire.plan import Opened

ALL = 1 << 30  # top_k that keeps every token


@dataclass(frozen=True)
class Special:
    """A request whose logits are changed before sampling."""

    params: SamplingParams
    prompt_len: int
    stop_ids: tuple[int, ...]


class SamplingState:
    """One row per slot. `special` holds the few requests with penalties, biases or a minimum length, `drawing` the
    slots whose tokens are drawn at random: both are the host's.
    """

    def __init__(self, slots: int, device: torch.device, eos_ids: tuple[int, ...]) -> None:
        def column(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((slots,), value, dtype=dtype, device=device)

        self.eos_ids = eos_ids
        self.greedy = column(1, torch.bool)
        self.temperature = column(1.0, torch.float32)  # 1 where the request is greedy by temperature
        self.top_k = column(ALL, torch.int64)
        self.top_p = column(1.0, torch.float32)
        self.min_p = column(0.0, torch.float32)
        self.seed = column(0, torch.int64)
        self.choice = column(0, torch.int64)
        self.prompt_len = column(0, torch.int64)
        self.frequency = column(0.0, torch.float32)
        self.presence = column(0.0, torch.float32)
        self.repetition = column(1.0, torch.float32)
        self.special: dict[int, Special] = {}
        self.drawing: set[int] = set()

    def open(self, opened: Sequence[Opened], staging: Staging) -> None:
        """Requests move into slots."""
        whole = np.array([_whole_numbers(new) for new in opened], dtype=np.int64).T
        real = np.array([_real_numbers(new.params) for new in opened], dtype=np.float32).T
        slots_N, greedy_N, *whole_N = staging.send(*whole)
        self.greedy[slots_N] = greedy_N.bool()
        for column, numbers_N in zip((self.top_k, self.seed, self.choice, self.prompt_len), whole_N, strict=True):
            column[slots_N] = numbers_N
        columns = (self.temperature, self.top_p, self.min_p, self.frequency, self.presence, self.repetition)
        for column, numbers_N in zip(columns, staging.send(*real), strict=True):
            column[slots_N] = numbers_N
        for new in opened:
            self._note(new)

    def _note(self, new: Opened) -> None:
        params = new.params
        self.special.pop(new.slot, None)
        self.drawing.discard(new.slot)
        if not params.is_greedy:
            self.drawing.add(new.slot)
        if params.has_penalties or params.logit_bias or params.min_new_tokens:
            eos = () if params.ignore_eos else self.eos_ids
            self.special[new.slot] = Special(params, new.prompt_len, (*eos, *(params.stop_token_ids or ())))


def _whole_numbers(new: Opened) -> tuple[int, ...]:
    params = new.params
    top_k = ALL if params.top_k < 0 else params.top_k
    return new.slot, params.is_greedy, top_k, new.seed, new.choice, new.prompt_len


def _real_numbers(params: SamplingParams) -> tuple[float, ...]:
    temperature = params.temperature if params.temperature >= GREEDY_BELOW else 1.0
    penalties = (params.frequency_penalty, params.presence_penalty, params.repetition_penalty)
    return temperature, params.top_p, params.min_p, *penalties
