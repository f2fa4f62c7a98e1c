"""From logits to tokens. Every row is computed from its own logits and its own random number and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ramify.ops.kernels import Kernels
from ramify.ops.reference.random import TOKEN
from ramify.sampling.state import SamplingState


@dataclass(frozen=True)
class Sampled:
    """One token per row, drawn from `logits_RV`, which have their penalties, at `temperature_R`."""

    tokens_R: Tensor
    broken_R: Tensor  # True where the logits were not finite
    logits_RV: Tensor
    temperature_R: Tensor

    def scaled(self, rows: slice) -> Tensor:
        """The logits as they were drawn from, of some rows."""
        return self.logits_RV[rows] / self.temperature_R[rows, None]


def sample(
    logits_RV: Tensor, state: SamplingState, slots_R: Tensor, positions_R: Tensor, draws: bool, kernels: Kernels
) -> Sampled:
    """A token for each row of fp32 logits; `positions_R` is where in its request it will stand. Without `draws` all of
    these slots are greedy.
    """
    temperature_R = state.temperature[slots_R]
    if not draws:
        return Sampled(*kernels.best(logits_RV), logits_RV, temperature_R)
    tokens_R, broken_R = kernels.sample(
        logits_RV,
        temperature_R,
        state.top_k[slots_R],
        state.top_p[slots_R],
        state.min_p[slots_R],
        kernels.uniform(state.seed[slots_R], state.choice[slots_R], positions_R, TOKEN),
        state.greedy[slots_R],
    )
    return Sampled(tokens_R, broken_R, logits_RV, temperature_R)
