"""From logits to tokens. Every row is computed from its own logits and its own random number and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.sampling.rng import uniform
from ramify.sampling.state import ALL, SamplingState


@dataclass(frozen=True)
class Sampled:
    """One token per row; `scaled_RV` are the logits it was drawn from, after penalties and temperature."""

    tokens_R: Tensor
    scaled_RV: Tensor
    broken_R: Tensor  # True where the logits were not finite


def sample(logits_RV: Tensor, state: SamplingState, slots_R: Tensor, positions_R: Tensor) -> Sampled:
    """Draw a token for each row of fp32 logits; `positions_R` is where in its request the token will stand."""
    broken_R = ~torch.isfinite(logits_RV.amax(-1))
    greedy_R = state.greedy[slots_R]
    scaled_RV = logits_RV / state.temperature[slots_R][:, None]
    if bool(greedy_R.all()):
        return Sampled(logits_RV.argmax(-1), scaled_RV, broken_R)
    random_R = uniform(state.seed[slots_R], state.choice[slots_R], positions_R)
    top_k, top_p, min_p = state.top_k[slots_R], state.top_p[slots_R], state.min_p[slots_R]
    filtered_R = (top_k < ALL) | (top_p < 1) | (min_p > 0)
    tokens_R = torch.where(greedy_R, logits_RV.argmax(-1), 0)
    for rows in ((~greedy_R & ~filtered_R).nonzero()[:, 0], (~greedy_R & filtered_R).nonzero()[:, 0]):
        if not len(rows):
            continue
        probs = scaled_RV[rows].softmax(-1)
        if bool(filtered_R[rows[0]]):
            probs, order = probs.sort(dim=-1, descending=True, stable=True)
            probs = keep(probs, top_k[rows], top_p[rows], min_p[rows])
            tokens_R[rows] = order.gather(1, draw(probs, random_R[rows])[:, None])[:, 0]
        else:
            tokens_R[rows] = draw(probs, random_R[rows])
    return Sampled(tokens_R, scaled_RV, broken_R)


def keep(probs_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor, min_p_R: Tensor) -> Tensor:
    """Zero what top-k, top-p (Holtzman et al. 2020) and min-p leave out of probabilities sorted in descending order.

    All three look at the same full distribution, as in SGLang; the most probable token always stays.
    """
    before_RV = probs_RV.cumsum(-1, dtype=torch.float64) - probs_RV
    out_RV = torch.arange(probs_RV.shape[1], device=probs_RV.device) >= top_k_R[:, None]
    out_RV |= before_RV > top_p_R[:, None]
    out_RV |= probs_RV < probs_RV[:, :1] * min_p_R[:, None]
    out_RV[:, 0] = False
    return probs_RV.masked_fill(out_RV, 0.0)


def draw(weights_RV: Tensor, random_R: Tensor) -> Tensor:
    """Index drawn in proportion to weights, by inverting the cumulative sum; never one of weight zero."""
    sums_RV = weights_RV.cumsum(-1, dtype=torch.float64)
    total_R = sums_RV[:, -1]
    target_R = torch.minimum(random_R * total_R, torch.nextafter(total_R, torch.zeros_like(total_R)))
    found = torch.searchsorted(sums_RV, target_R[:, None], right=True)[:, 0]
    return found.clamp_max(weights_RV.shape[1] - 1)
