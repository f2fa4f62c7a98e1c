"""Several matrices of one shape, one for each group of rows, kept as the platform's grouped kernel wants them."""

from __future__ import annotations

from torch import Tensor

from ramify.ops.kernels import Kernels


def stored(kernels: Kernels, weight_GED: Tensor) -> Tensor:
    """What `apply` multiplies with: packed where kernels pack."""
    if kernels.packing is None:
        return weight_GED
    assert kernels.packing.pack_groups is not None
    return kernels.packing.pack_groups(weight_GED)


def apply(kernels: Kernels, x_RD: Tensor, weight: Tensor, outputs: int, bias: Tensor | None, ends_G: Tensor) -> Tensor:
    """Rows sorted by group; those of group g end before row `ends_G[g]`. `outputs` and `bias` [groups x outputs]."""
    if kernels.packing is None:
        bias_GE = None if bias is None else bias.unflatten(0, (len(ends_G), outputs))
        return kernels.grouped_linear(x_RD, weight, bias_GE, ends_G)
    assert kernels.packing.grouped_linear is not None
    return kernels.packing.grouped_linear(x_RD, weight, outputs, bias, ends_G)
