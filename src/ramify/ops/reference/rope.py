"""Reference of the fused step between the qkv projection and attention. Suffixes: see `ops.kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.ops.reference import fp8, int8
from ramify.ops.reference.basic import rms_norm


def rotate(x_THC: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary embedding (Su et al. 2021) of the first 2 R elements: pairs are (i, i + R), or (2i, 2i + 1)."""
    x, rest = x_THC.split([2 * cos_TR.shape[1], x_THC.shape[2] - 2 * cos_TR.shape[1]], dim=-1)
    cos, sin = (each_TR.unsqueeze(1).to(x.dtype) for each_TR in (cos_TR, sin_TR))
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    left, right = a * cos - b * sin, b * cos + a * sin
    turned = torch.stack((left, right), dim=-1).flatten(-2) if interleaved else torch.cat((left, right), dim=-1)
    return torch.cat((turned, rest), dim=-1)


def store(x_TKC: Tensor, pool_PKSC: Tensor, write_at_T: Tensor) -> None:
    """Write each token's heads to its slot, in the type of the pool."""
    size = pool_PKSC.shape[2]
    pool_PKSC[write_at_T // size, :, write_at_T % size] = _as_kept(x_TKC, pool_PKSC.dtype)


def _as_kept(x_TKC: Tensor, kind: torch.dtype) -> Tensor:
    if kind is torch.int8:
        return int8.store(x_TKC)
    return fp8.cast(x_TKC) if kind is fp8.KIND else x_TKC.to(kind)


def qkv_rope_store(
    qkv_TE: Tensor,
    heads: int,
    q_norm_C: Tensor | None,
    k_norm_C: Tensor | None,
    eps: float,
    cos_TR: Tensor,
    sin_TR: Tensor,
    k_pool_PKSC: Tensor,
    v_pool_PKSC: Tensor,
    write_at_T: Tensor,
    interleaved: bool = False,
    offset: float = 0.0,
) -> Tensor:
    kv_heads = k_pool_PKSC.shape[1]
    size = qkv_TE.shape[1] // (heads + 2 * kv_heads)
    q, k, v = (part.unflatten(-1, (-1, size)) for part in qkv_TE.split([heads * size, *[kv_heads * size] * 2], dim=-1))
    if q_norm_C is not None and k_norm_C is not None:
        q, k = rms_norm(q, q_norm_C, eps, offset), rms_norm(k, k_norm_C, eps, offset)
    store(rotate(k, cos_TR, sin_TR, interleaved), k_pool_PKSC, write_at_T)
    store(v, v_pool_PKSC, write_at_T)
    return rotate(q, cos_TR, sin_TR, interleaved)
