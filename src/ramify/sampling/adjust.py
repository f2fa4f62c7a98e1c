"""Changes to the logits of single requests, before temperature: bias, penalties, minimum length.

As in SGLang, all three penalties look at generated tokens only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.sampling.state import Special


def adjust(logits_V: Tensor, special: Special, outputs: Tensor) -> None:
    """Change one row of logits in place; `outputs` are the tokens the request has generated."""
    params = special.params
    if params.has_penalties and len(outputs):
        _penalise(logits_V, outputs, params.frequency_penalty, params.presence_penalty, params.repetition_penalty)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits_V.device)
        logits_V[ids] += torch.tensor(list(params.logit_bias.values()), dtype=logits_V.dtype, device=logits_V.device)
    if len(outputs) < params.min_new_tokens and special.stop_ids:
        logits_V[list(special.stop_ids)] = float("-inf")


def _penalise(logits_V: Tensor, outputs: Tensor, frequency: float, presence: float, repetition: float) -> None:
    """OpenAI's frequency and presence penalties, and the multiplicative one of Keskar et al. 2019."""
    ids, counts = outputs.long().unique(return_counts=True)
    logits = logits_V[ids]
    logits -= frequency * counts + presence
    if repetition != 1.0:
        logits = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits_V[ids] = logits
