"""Steps that differ in their numbers alone, captured as CUDA graphs. Not yet run on a GPU: see docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ramify.ops.recording import CannotRecordError, Recording


class CudaCapturer:
    """Graphs of steps of so many rows. All share their memory: what one computed stands until the next is replayed, and
    no longer. They are replayed one after another, on the stream of the steps.
    """

    def __init__(self, device: torch.device, sizes: Sequence[int]) -> None:
        self.sizes: Sequence[int] = tuple(sizes)
        self._device = device
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="ramify-capture", initializer=self._prepare)

    def _prepare(self) -> None:
        torch.cuda.set_device(self._device)
        self._stream, self._memory = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            # Libraries that multiply have a handle for each thread, which cannot be made while it captures.
            x = torch.zeros(16, 16, dtype=torch.bfloat16, device=self._device)
            torch.mm(x, x)
            torch.mm(x.float(), x.float())
        self._stream.synchronize()

    def begin(self, compute: Callable[[], Tensor]) -> Future[Recording]:
        return self._threads.submit(self._capture, compute)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _capture(self, compute: Callable[[], Tensor]) -> Recording:
        """Nothing is computed, and other threads go on: what they ask of the device is none of the capture's business.
        `torch.cuda.graph` would wait for the device and empty the cache of its memory.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            try:
                graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
                result = compute()
                graph.capture_end()
            except Exception as e:
                self._give_up(graph)
                raise CannotRecordError(f"what cannot be captured: {e}") from e
        return _Replay(graph, result)

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """A stream that captures must stop to, or nothing runs on it again. Where CUDA has ended the capture itself,
        torch does not tell its own memory, which would wait for the end for ever.
        """
        spoiled, self._memory = self._memory, torch.cuda.graph_pool_handle()
        try:
            graph.capture_end()
        except RuntimeError:
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), spoiled)


class _Replay:
    def __init__(self, graph: torch.cuda.CUDAGraph, result: Tensor) -> None:
        self._graph, self._result = graph, result

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._result
