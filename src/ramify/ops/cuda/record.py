"""Steps that differ in their numbers alone, captured as CUDA graphs. Not yet run on a GPU: see docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ramify.ops.recording import CannotRecordError, Recording


class CudaRecorder:
    """All graphs share their memory: what one computed stands until the next is replayed, and no longer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None  # of memory; its type is torch's own

    def record(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Recording]:
        """Computed once, which compiles what has to be compiled, and then captured, which computes nothing: so that
        states have gone on by one step.
        """
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        computed, graph = compute(), torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = compute()
        except RuntimeError as e:
            raise CannotRecordError(f"what cannot be captured: {e}") from e
        result.copy_(computed)
        return result, _Replay(graph, result)


class _Replay:
    def __init__(self, graph: torch.cuda.CUDAGraph, result: Tensor) -> None:
        self._graph, self._result = graph, result

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._result
