"""Changes to logits before temperature: penalties, bias, minimum length.

As in SGLang, all three penalties look at generated tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramify.ops.kernels import Kernels
from ramify.ops.staging import Staging
from ramify.sampling.state import SamplingState, Special


@dataclass(frozen=True)
class Drawn:
    """Rows of logits that tokens will be drawn from, as the host knows them: `slots` with, for each, an upper bound of
    the position its token will have, and as the device does.
    """

    slots: Sequence[int]
    bounds: Sequence[int]
    slots_R: Tensor
    positions_R: Tensor


@dataclass(frozen=True)
class Adjust:
    """Changes rows of fp32 logits in place. `tokens_SC` are those of the slots."""

    state: SamplingState
    tokens_SC: Tensor
    kernels: Kernels
    staging: Staging

    def __call__(self, logits_RV: Tensor, drawn: Drawn) -> None:
        special = [
            (row, self.state.special[slot]) for row, slot in enumerate(drawn.slots) if slot in self.state.special
        ]
        if special:
            self._penalise(logits_RV, drawn, [row for row, each in special if each.params.has_penalties])
            self._add(logits_RV, special)
            self._put_off(logits_RV, drawn, special)

    def _penalise(self, logits_RV: Tensor, drawn: Drawn, rows: list[int]) -> None:
        outputs = [drawn.bounds[row] - self.state.special[drawn.slots[row]].prompt_len for row in rows]
        if not any(outputs):
            return
        (rows_M,) = self.staging.send(np.array(rows))
        slots_M = drawn.slots_R[rows_M]
        columns = (self.state.frequency, self.state.presence, self.state.repetition)
        self.kernels.penalise(
            logits_RV,
            rows_M,
            self.tokens_SC,
            slots_M,
            self.state.prompt_len[slots_M],
            drawn.positions_R[rows_M],
            *(column[slots_M] for column in columns),
            max(outputs),
        )

    def _add(self, logits_RV: Tensor, special: Sequence[tuple[int, Special]]) -> None:
        """Biases that were asked for."""
        biases = [(row, *item) for row, each in special for item in (each.params.logit_bias or {}).items()]
        if biases:
            rows_B, ids_B = self.staging.send(*np.array([each[:2] for each in biases]).T)
            (bias_B,) = self.staging.send(np.array([bias for _, _, bias in biases], dtype=np.float32))
            logits_RV[rows_B, ids_B] += bias_B

    def _put_off(self, logits_RV: Tensor, drawn: Drawn, special: Sequence[tuple[int, Special]]) -> None:
        """Tokens that end a request too early."""
        stops = [
            (row, id, each.prompt_len + each.params.min_new_tokens)
            for row, each in special
            if each.params.min_new_tokens
            for id in each.stop_ids
        ]
        if stops:
            rows_B, ids_B, least_B = self.staging.send(*np.array(stops).T)
            early_B = drawn.positions_R[rows_B] < least_B
            logits_RV[rows_B, ids_B] = torch.where(early_B, float("-inf"), logits_RV[rows_B, ids_B])
