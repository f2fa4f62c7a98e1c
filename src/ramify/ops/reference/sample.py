"""Reference of drawing tokens: sort what has to be filtered, sum in fp64, invert the cumulative sum."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(
    logits_RV: Tensor,
    temperature_R: Tensor,
    top_k_R: Tensor,
    top_p_R: Tensor,
    min_p_R: Tensor,
    random_R: Tensor,
    greedy_R: Tensor,
) -> tuple[Tensor, Tensor]:
    best_R, broken_R = best(logits_RV)
    if bool(greedy_R.all()):
        return best_R, broken_R
    scaled_RV = logits_RV / temperature_R[:, None]
    filtered_R = (top_k_R < logits_RV.shape[1]) | (top_p_R < 1) | (min_p_R > 0)
    tokens_R = torch.where(greedy_R, best_R, 0)
    for rows in ((~greedy_R & ~filtered_R).nonzero()[:, 0], (~greedy_R & filtered_R).nonzero()[:, 0]):
        if not len(rows):
            continue
        probs = scaled_RV[rows].softmax(-1)
        if bool(filtered_R[rows[0]]):
            probs, order = probs.sort(dim=-1, descending=True, stable=True)
            probs = keep(probs, top_k_R[rows], top_p_R[rows], min_p_R[rows])
            tokens_R[rows] = order.gather(1, draw(probs, random_R[rows])[:, None])[:, 0]
        else:
            tokens_R[rows] = draw(probs, random_R[rows])
    return tokens_R, broken_R


def best(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    return logits_RV.argmax(-1), ~torch.isfinite(logits_RV.amax(-1))


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
