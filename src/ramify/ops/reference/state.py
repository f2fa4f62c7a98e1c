"""References of layers that keep a state: token by token, so that it does not matter how a text is cut.

Suffixes: see `ops.kernels`; W width of the convolution, V size of a value, B size of a key.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.ops.states import Spans


def rows_of(spans: Spans) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(first token, slot to read, (end, slot to write) of each span)."""
    for row in range(len(spans.starts_N)):
        first, last = int(spans.offsets_N[row]), int(spans.offsets_N[row + 1])
        ends = [(int(spans.ends_S[s]), int(spans.to_S[s])) for s in range(first, last)]
        yield int(spans.starts_N[row]), int(spans.from_N[row]), ends


def conv(x_TE: Tensor, weight_WE: Tensor, bias_E: Tensor | None, pool_PWE: Tensor, spans: Spans) -> Tensor:
    y_TE = torch.empty(x_TE.shape, dtype=x_TE.dtype, device=x_TE.device)
    behind = weight_WE.shape[0] - 1
    for start, source, ends in rows_of(spans):
        inputs = torch.cat((pool_PWE[source], x_TE[start : ends[-1][0]].to(pool_PWE.dtype)))
        seen_TWE = inputs.unfold(0, behind + 1, 1).float()  # [tokens, E, W]
        total = (seen_TWE * weight_WE.T.float()).sum(-1)
        y_TE[start : ends[-1][0]] = F.silu(total if bias_E is None else total + bias_E.float()).to(x_TE.dtype)
        for end, slot in ends:
            pool_PWE[slot] = inputs[end - start : end - start + behind]
    return y_TE


def ssd(
    xbc_TE: Tensor,
    dt_TH: Tensor,
    decay_H: Tensor,
    bias_H: Tensor,
    skip_H: Tensor,
    limits: tuple[float, float],
    groups: int,
    pool_PHVB: Tensor,
    spans: Spans,
) -> Tensor:
    heads, value, key = pool_PHVB.shape[1:]
    tokens = len(xbc_TE)
    x, b, c = xbc_TE.float().split([heads * value, groups * key, groups * key], dim=1)
    x_THV = x.reshape(tokens, heads, value)
    b_THB, c_THB = (each.reshape(tokens, groups, key).repeat_interleave(heads // groups, 1) for each in (b, c))
    dt_TH = F.softplus(dt_TH.float() + bias_H).clamp(*limits)
    y_THV = torch.empty_like(x_THV)
    for start, source, ends in rows_of(spans):
        state = pool_PHVB[source].clone()
        for end, slot in ends:
            for t in range(start, end):
                step_H = dt_TH[t]
                new = (step_H[:, None] * x_THV[t])[:, :, None] * b_THB[t][:, None, :]
                state = state * torch.exp(step_H * decay_H)[:, None, None] + new
                y_THV[t] = (state * c_THB[t][:, None, :]).sum(-1) + skip_H[:, None] * x_THV[t]
            pool_PHVB[slot], start = state, end
    return y_THV.flatten(1)


def delta(
    qkv_TE: Tensor,
    a_TH: Tensor,
    b_TH: Tensor,
    decay_H: Tensor,
    bias_H: Tensor,
    groups: int,
    pool_PHBV: Tensor,
    spans: Spans,
) -> Tensor:
    heads, key, value = pool_PHBV.shape[1:]
    tokens = len(qkv_TE)
    q, k, v = qkv_TE.float().split([groups * key, groups * key, heads * value], dim=1)
    v_THV = v.reshape(tokens, heads, value)
    q_THB, k_THB = (
        of_length_one(each.reshape(tokens, groups, key)).repeat_interleave(heads // groups, 1) for each in (q, k)
    )
    q_THB = q_THB * key**-0.5
    kept_TH = torch.exp(F.softplus(a_TH.float() + bias_H) * decay_H)
    rate_TH = torch.sigmoid(b_TH.float())
    y_THV = torch.empty_like(v_THV)
    for start, source, ends in rows_of(spans):
        state = pool_PHBV[source].clone()
        for end, slot in ends:
            for t in range(start, end):
                state = state * kept_TH[t][:, None, None]
                known_HV = (state * k_THB[t][:, :, None]).sum(1)
                new_HV = (v_THV[t] - known_HV) * rate_TH[t][:, None]
                state = state + k_THB[t][:, :, None] * new_HV[:, None, :]
                y_THV[t] = (state * q_THB[t][:, :, None]).sum(1)
            pool_PHBV[slot], start = state, end
    return y_THV.flatten(1)


def of_length_one(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
