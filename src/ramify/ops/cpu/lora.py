"""The compiled kernel of low-rank adapters. For float32 and bfloat16."""

from __future__ import annotations

from torch import Tensor

from ramify.ops.cpu.encoding import is_bf16
from ramify.ops.cpu.record import Functions
from ramify.ops.lora import LowRanks


class CompiledLora:
    """One library, loaded. A recorded call reads the runs and the table where they stood: as many of both."""

    def __init__(self, library: Functions) -> None:
        self._library = library

    def lora(self, y_TE: Tensor, x_TD: Tensor, runs_N3: Tensor, table: LowRanks) -> None:
        assert y_TE.stride(1) == 1
        if x_TD.stride(1) != 1:
            x_TD = x_TD.contiguous()
        self._library.ramify_lora(
            is_bf16(x_TD),
            y_TE.data_ptr(),
            x_TD.data_ptr(),
            runs_N3.data_ptr(),
            table.places.data_ptr(),
            len(runs_N3),
            len(table),
            table.places.shape[1],
            x_TD.shape[1],
            x_TD.stride(0),
            y_TE.stride(0),
        )
