"""Log probabilities of chosen tokens, of the best ones, and of ids that were asked for."""

from __future__ import annotations

from torch import Tensor

from ramify.wire.plan import LogprobsWanted
from ramify.wire.result import TokenLogprobs

BLOCK = 256  # rows of logits at once: a long prompt must not need vocabulary x prompt floats


def score(logits_NV: Tensor, tokens_N: Tensor, wanted: LogprobsWanted, start: int) -> TokenLogprobs:
    """Log probabilities under these logits of the tokens that followed them; the first has index `start`."""
    logp_NV = logits_NV.float().log_softmax(-1)
    found = TokenLogprobs(start, logp_NV.gather(1, tokens_N[:, None])[:, 0].tolist())
    if wanted.top:
        top = logp_NV.topk(min(wanted.top, logp_NV.shape[1]), dim=-1)
        found.top_values, found.top_ids = top.values.tolist(), top.indices.tolist()
    if wanted.ids:
        found.id_values = logp_NV[:, list(wanted.ids)].tolist()
    return found


def join(parts: list[TokenLogprobs]) -> TokenLogprobs:
    """Runs that follow one another, as one."""
    whole = parts[0]
    for part in parts[1:]:
        whole.values += part.values
        whole.top_values += part.top_values
        whole.top_ids += part.top_ids
        whole.id_values += part.id_values
    return whole
