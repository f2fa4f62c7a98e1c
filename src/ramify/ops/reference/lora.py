"""Reference of what low-rank adapters add to a linear. Suffixes: see `ops.kernels`."""

from __future__ import annotations

from torch import Tensor

from ramify.ops.lora import LowRanks


def lora(y_TE: Tensor, x_TD: Tensor, runs_N3: Tensor, table: LowRanks) -> None:
    """In place, in fp32, rounded once."""
    for start, stop, slot in runs_N3.tolist():
        for part in table[slot]:
            inner_TR = x_TD[start:stop].float() @ part.down_RD.float().T
            own_TE = y_TE[start:stop, part.begin : part.begin + part.up_ER.shape[0]]
            own_TE.copy_(own_TE.float() + part.scale * inner_TR @ part.up_ER.float().T)
