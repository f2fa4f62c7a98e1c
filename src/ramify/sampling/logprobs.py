"""Log probabilities of chosen tokens, of the best ones, and of ids that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from ramify.ops.kernels import Kernels
from ramify.ops.staging import Staging
from ramify.wire.plan import LogprobsWanted
from ramify.wire.result import TokenLogprobs

BLOCK = 256  # rows of logits at once: a long prompt must not need vocabulary x prompt floats


def score(
    logits_NV: Tensor, tokens_N: Tensor, wanted: LogprobsWanted, kernels: Kernels, staging: Staging
) -> list[Tensor]:
    """What is wanted under these logits of the tokens that followed them, for `told`: on the device."""
    if not wanted.top and not wanted.ids:
        return [kernels.log_probabilities(logits_NV, tokens_N)]
    logp_NV = logits_NV.float().log_softmax(-1)
    found = [logp_NV.gather(1, tokens_N[:, None])[:, 0]]
    if wanted.top:
        found += logp_NV.topk(min(wanted.top, logp_NV.shape[1]), dim=-1)
    if wanted.ids:
        (ids,) = staging.send(np.array(wanted.ids))
        found.append(logp_NV[:, ids])
    return found


def told(found: list[Tensor], wanted: LogprobsWanted, start: int, count: int | None = None) -> TokenLogprobs:
    """What `score` found, once it is on the host; of the first `count` tokens, the first of which has index `start`."""
    lists: Iterator[Any] = iter([each[:count].tolist() for each in found])
    told = TokenLogprobs(start, next(lists))
    if wanted.top:
        told.top_values, told.top_ids = next(lists), next(lists)
    if wanted.ids:
        told.id_values = next(lists)
    return told


def join(parts: list[TokenLogprobs]) -> TokenLogprobs:
    """Runs that follow one another, as one."""
    whole = parts[0]
    for part in parts[1:]:
        whole.values += part.values
        whole.top_values += part.top_values
        whole.top_ids += part.top_ids
        whole.id_values += part.id_values
    return whole
