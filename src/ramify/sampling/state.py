"""What sampling needs to know of the request in each slot, as tensors to gather from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.core.params import GREEDY_BELOW, SamplingParams

ALL = 1 << 30  # top_k that keeps every token


@dataclass(frozen=True)
class Special:
    """A request whose logits are changed before sampling."""

    params: SamplingParams
    prompt_len: int
    stop_ids: tuple[int, ...]


class SamplingState:
    """One row per slot. `special` holds the few requests with penalties, biases or a minimum length."""

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
        self.special: dict[int, Special] = {}

    def open(self, slot: int, params: SamplingParams, seed: int, choice: int, prompt_len: int) -> None:
        """A request moves into a slot."""
        self.greedy[slot] = params.is_greedy
        self.temperature[slot] = params.temperature if params.temperature >= GREEDY_BELOW else 1.0
        self.top_k[slot] = ALL if params.top_k < 0 else params.top_k
        self.top_p[slot] = params.top_p
        self.min_p[slot] = params.min_p
        self.seed[slot] = seed
        self.choice[slot] = choice
        self.special.pop(slot, None)
        if params.has_penalties or params.logit_bias or params.min_new_tokens:
            eos = () if params.ignore_eos else self.eos_ids
            self.special[slot] = Special(params, prompt_len, (*eos, *(params.stop_token_ids or ())))
